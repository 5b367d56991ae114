from deployments.observability.fan_out import FanOut
from tests.deployments.observability.chunks import ended, sent
from tests.transport.test_observer import Recorder
from transport.observer import Client, NoObserver
from transport.wire.messages import Queued

CALLS = ["connected", "asked", "waits", "opened", "moved", "sent", "closed"]


def follow(observer):
    client = observer.connected(Client(), 1.0)
    client.asked(2.0)
    client.waits(Queued(1))
    client.opened(3.0, "s1", width=32, height=16)
    client.moved("paused")
    client.sent(sent())
    client.closed(4.0, ended())
    observer.lagged(0.1)


def test_every_observer_gets_every_call():
    recorders = [Recorder(), Recorder()]
    follow(FanOut(recorders))
    for recorder in recorders:
        assert (recorder.names, recorder.lags) == (CALLS, [0.1])


class Broken:
    """Fails at each call but that which begins a client."""

    def connected(self, client, now_s):
        return self

    def __getattr__(self, name):
        raise RuntimeError(f"{name} is broken")


def test_an_observer_that_fails_is_logged_and_stops_nothing(caplog):
    recorder = Recorder()
    follow(FanOut([Broken(), recorder]))
    assert (recorder.names, recorder.lags) == (CALLS, [0.1])
    assert caplog.text.count("Broken failed") == len(CALLS)


def test_one_that_cannot_begin_is_left_out(caplog):
    class Refuses(NoObserver):
        def connected(self, client, now_s):
            raise RuntimeError("no room")

    recorder = Recorder()
    follow(FanOut([Refuses(), recorder]))
    assert recorder.names == CALLS
    assert caplog.text.count("Refuses failed") == 1
