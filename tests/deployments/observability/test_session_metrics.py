import pytest

from deployments.observability.session_metrics import ResumeMetrics
from tests.deployments.observability.chunks import ended, sent
from transport.observer import Client
from transport.wire.messages import Queued, Starting


def open_session(followed, *, kind="stream", asked=0.0, opened=0.5):
    client = followed.transport.connected(Client(kind=kind), asked)
    client.asked(asked)
    client.opened(opened, "s1", width=32, height=16)
    return client


def clients(followed):
    counts = followed.of("clients").values
    return {state: number for (_, state), number in counts.items() if number}


def test_clients_are_counted_by_their_state(followed):
    one = followed.transport.connected(Client(), 0)
    assert clients(followed) == {"connected": 1}
    one.asked(0)
    one.waits(Starting())
    assert clients(followed) == {"starting": 1}
    one.waits(Queued(1))
    one.waits(Queued(1))
    assert clients(followed) == {"waiting": 1}
    two = open_session(followed)
    one.opened(3, "s2", width=32, height=16)
    assert clients(followed) == {"active": 2}
    one.moved("paused")
    assert clients(followed) == {"active": 1, "paused": 1}
    one.waits(Queued(1))  # its memory was given to others
    assert clients(followed) == {"active": 1, "waiting": 1}
    one.sent(sent(4, at=8))
    assert clients(followed) == {"active": 2}
    one.closed(9, ended("s2"))
    two.closed(9, ended())
    assert clients(followed) == {}


def test_resumes_are_counted_by_where_the_world_was(recorded):
    resumes = ResumeMetrics()
    for source in ("stored", "attached", "stored"):
        resumes.count(source)
    assert recorded["resumes"].values == {("stored",): 2, ("attached",): 1}


def test_opens_ends_and_refusals_are_counted_by_reason(followed):
    open_session(followed).closed(9, ended(label="client_left"))
    open_session(followed, kind="clip").closed(9, ended(label="done"))
    followed.transport.connected(Client(), 0).closed(0, ended(None, "busy"))
    assert followed.of("opens").values == {("stream",): 1, ("clip",): 1}
    assert followed.of("closes").values == {("stream", "client_left"): 1, ("clip", "done"): 1}
    assert followed.of("refusals").values == {("stream", "busy"): 1}


def test_a_wait_ends_with_a_world_or_without(followed):
    open_session(followed, asked=1, opened=3.5)
    gone = followed.transport.connected(Client(), 0)
    gone.asked(10)
    gone.closed(70, ended(None, "busy"))
    followed.transport.connected(Client(), 0).closed(5, ended(None, "malformed"))  # never waited
    assert followed.of("wait_seconds").observed == [("stream", 2.5), ("stream", 60)]


def test_the_period_of_chunks_is_over_what_they_play(followed):
    client = open_session(followed)
    for index, at in enumerate((1.0, 1.75, 3.25)):
        client.sent(sent(index, at=at))
    assert followed.of("chunk_period_ratio").observed == [(1.0,), (2.0,)]
    assert followed.of("first_chunk_seconds").observed == [(1.0,)]


def test_a_pause_is_neither_a_period_nor_a_stall(followed):
    client = open_session(followed)
    client.sent(sent(0, at=1))
    client.moved("paused")
    client.moved("active")
    client.sent(sent(1, at=100, stall_s=98))
    client.sent(sent(2, at=101.5, stall_s=0.75))
    assert followed.of("chunk_period_ratio").observed == [(2.0,)]
    assert followed.of("stalls").values == {(): 1}
    assert followed.of("stall_seconds").values == {(): 0.75}


def test_less_than_a_frame_of_delay_is_no_stall(followed):
    client = open_session(followed)
    client.sent(sent(0, at=1))
    client.sent(sent(1, at=1.8, stall_s=0.05))
    assert followed.of("stalls").values == {}
    assert followed.of("stall_seconds").values == {(): 0.05}


def test_keys_are_timed_to_the_first_byte_of_their_chunk(followed):
    client = open_session(followed)
    client.sent(sent(0, at=2.0, event_s=0.9))
    client.sent(sent(1, at=3.0))
    assert followed.of("control_to_frame_seconds").observed == [(pytest.approx(1.0),)]


def test_dropped_frames_frames_and_bytes_add_up(followed):
    client = open_session(followed)
    for index, dropped in enumerate((0, 12, 12, 36)):
        client.sent(sent(index, dropped_frames=dropped))
    assert followed.of("dropped_frames").values == {(): 36}
    assert followed.of("sent_frames").values == {("stream",): 48}
    assert followed.of("sent_bytes").values == {("stream",): 400}


def test_a_clip_s_chunks_count_their_bytes_alone(followed):
    client = open_session(followed, kind="clip")
    client.sent(sent(0, num_bytes=0))
    client.sent(sent(1, at=9.0))
    assert followed.of("sent_bytes").values == {("clip",): 100}
    assert followed.of("chunk_period_ratio").observed == []
    assert followed.of("first_chunk_seconds").observed == []


def test_the_lag_of_the_event_loop(followed):
    followed.transport.lagged(0.003)
    assert followed.of("event_loop_lag_seconds").observed == [(0.003,)]
