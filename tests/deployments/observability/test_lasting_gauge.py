import threading
from types import SimpleNamespace

from ray.util.metrics import Gauge

from deployments.observability import lasting_gauge
from deployments.observability.lasting_gauge import LastingGauge


def test_every_value_is_set_again_and_the_newest_alone(monkeypatch):
    seen, repeated, repeats = [], threading.Event(), threading.Semaphore(0)

    def note(self, value, tags=None):
        seen.append((value, tags))
        if len(seen) >= 5:
            repeated.set()

    monkeypatch.setattr(Gauge, "set", note)
    clock = SimpleNamespace(sleep=lambda seconds: repeats.acquire())
    monkeypatch.setattr(lasting_gauge, "time", clock)
    monkeypatch.setattr(lasting_gauge, "_repeater", lasting_gauge._Repeater())
    gauge = LastingGauge("lingbot_test", description="a test", tag_keys=("state",))
    gauge.set(1, tags={"state": "active"})
    gauge.set(2, tags={"state": "paused"})
    gauge.set(0, tags={"state": "active"})
    repeats.release()
    assert repeated.wait(60)
    first = [(1, {"state": "active"}), (2, {"state": "paused"}), (0, {"state": "active"})]
    newest = [(0, {"state": "active"}), (2, {"state": "paused"})]
    assert seen == first + newest
