import threading

from ray.util.metrics import Gauge

from deployments.observability import lasting_gauge
from deployments.observability.lasting_gauge import LastingGauge


def test_every_value_is_set_again_and_the_newest_alone(monkeypatch):
    seen, repeated = [], threading.Event()

    def note(self, value, tags=None):
        seen.append((value, tags))
        if len(seen) >= 5:
            repeated.set()

    monkeypatch.setattr(Gauge, "set", note)
    monkeypatch.setattr(lasting_gauge, "REPEAT_S", 0.01)
    monkeypatch.setattr(lasting_gauge, "_repeater", lasting_gauge._Repeater())
    gauge = LastingGauge("lingbot_test", description="a test", tag_keys=("state",))
    gauge.set(1, tags={"state": "active"})
    gauge.set(2, tags={"state": "paused"})
    gauge.set(0, tags={"state": "active"})
    assert repeated.wait(10)
    monkeypatch.setattr(lasting_gauge, "REPEAT_S", 60)
    first = [(1, {"state": "active"}), (2, {"state": "paused"}), (0, {"state": "active"})]
    newest = [(0, {"state": "active"}), (2, {"state": "paused"})]
    assert seen[:5] == first + newest
