from types import SimpleNamespace

import pytest

from deployments.observability import metrics, rank_metrics, session_metrics
from deployments.observability.metrics import METRICS


class FakeMetric:
    """Keeps what Ray's metric of this kind would, and refuses what Ray refuses."""

    def __init__(self, name):
        self.spec, self.values, self.observed = METRICS[name], {}, []

    def _key(self, tags):
        assert set(tags or {}) == set(self.spec.tags)
        assert all(isinstance(value, str) for value in (tags or {}).values())
        return tuple((tags or {})[name] for name in self.spec.tags)

    def inc(self, value, tags=None):
        assert self.spec.kind == "counter" and value > 0
        key = self._key(tags)
        self.values[key] = self.values.get(key, 0) + value

    def set(self, value, tags=None):
        assert self.spec.kind == "gauge"
        self.values[self._key(tags)] = value

    def observe(self, value, tags=None):
        assert self.spec.kind == "histogram"
        self.observed.append((*self._key(tags), value))


@pytest.fixture
def recorded(monkeypatch):
    """Fakes in the place of Ray's metrics, by name without `lingbot_`, once they are created."""
    fakes = {}

    def create(name):
        fakes[name.removeprefix("lingbot_")] = FakeMetric(name)
        return fakes[name.removeprefix("lingbot_")]

    for module in (metrics, rank_metrics, session_metrics):
        monkeypatch.setattr(module, "create", create)
    return fakes


@pytest.fixture
def followed(recorded):
    """A transport's metrics, and what they have recorded."""
    transport = session_metrics.TransportMetrics()
    return SimpleNamespace(transport=transport, **{"of": lambda name: recorded[name]})
