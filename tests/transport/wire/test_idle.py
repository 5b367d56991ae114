import math

import pytest

from transport.wire.idle import IdleClock
from transport.wire.limits import ClientLimits
from transport.wire.messages import Ending, Paused, Resumed


@pytest.fixture
def make_clock():
    """A function from limits to the clock of a session that was opened at 0 s."""

    def build(*, may_idle=True, **limits):
        clock = IdleClock(ClientLimits(**limits))
        clock.start(0.0, may_idle=may_idle)
        return clock

    return build


def test_a_session_without_events_is_paused_once(make_clock):
    clock = make_clock(idle_after_s=20)
    assert clock.poll(19.9, busy=False) == []
    assert clock.poll(20, busy=False) == [Paused("idle")]
    assert clock.poll(50, busy=False) == [] and clock.paused == "idle"


def test_without_limits_nothing_ever_happens(make_clock):
    clock = make_clock()
    assert clock.wait_s(0, busy=False) == math.inf
    assert clock.poll(1e6, busy=False) == [] and clock.ended(1e6) is None


@pytest.mark.parametrize("last", ["event", "chunk", "poll"])
def test_the_idle_time_begins_with_the_last_sign_of_the_client(make_clock, last):
    clock = make_clock(idle_after_s=20)
    match last:
        case "event":
            clock.note_event(15)
        case "chunk":
            clock.note_chunk(15, busy=True)
        case "poll":
            clock.poll(15, busy=True)
    assert clock.wait_s(15, busy=False) == 20
    assert clock.poll(34.9, busy=False) == []
    assert clock.poll(35, busy=False) == [Paused("idle")]


def test_a_chunk_without_keys_is_no_sign_of_the_client(make_clock):
    clock = make_clock(idle_after_s=20)
    clock.note_chunk(1, busy=False)
    clock.note_chunk(15, busy=False)
    assert clock.poll(21, busy=False) == [Paused("idle")]


def test_the_idle_time_of_a_new_session_begins_with_its_first_chunk(make_clock):
    clock = make_clock(idle_after_s=20)
    clock.note_chunk(15, busy=False)
    assert clock.poll(34.9, busy=False) == []
    assert clock.poll(35, busy=False) == [Paused("idle")]


def test_a_held_key_keeps_a_session_active(make_clock):
    clock = make_clock(idle_after_s=20)
    assert clock.wait_s(19, busy=True) == 20
    assert clock.poll(1000, busy=True) == []


def test_a_session_of_so_many_chunks_is_never_idle_but_may_be_hidden(make_clock):
    clock = make_clock(idle_after_s=20, may_idle=False)
    assert clock.wait_s(0, busy=False) == math.inf
    assert clock.poll(1000, busy=False) == []
    clock.note_visibility(1000, hidden=True)
    assert clock.poll(1000, busy=False) == [Paused("hidden")]


@pytest.mark.parametrize("busy", [False, True])
def test_a_hidden_page_is_paused_at_once_without_any_limit(make_clock, busy):
    clock = make_clock()
    clock.note_visibility(1, hidden=True)
    assert clock.poll(1, busy=busy) == [Paused("hidden")]
    clock.note_visibility(9, hidden=False)
    assert clock.poll(9, busy=busy) == [Resumed()]


def test_a_page_may_be_hidden_before_its_session_is_open():
    clock = IdleClock(ClientLimits())
    clock.note_visibility(0, hidden=True)
    clock.start(5)
    assert clock.poll(5, busy=False) == [Paused("hidden")]


def test_an_event_resumes_and_starts_the_idle_time_again(make_clock):
    clock = make_clock(idle_after_s=20)
    clock.poll(20, busy=False)
    clock.note_event(100)
    assert clock.poll(100, busy=False) == [Resumed()]
    assert clock.wait_s(100, busy=False) == 20
    assert clock.poll(120, busy=False) == [Paused("idle")]


def test_released_keys_do_not_wake_a_hidden_page_and_others_do(make_clock):
    clock = make_clock()
    clock.note_visibility(1, hidden=True)
    clock.poll(1, busy=False)
    clock.note_event(2, wakes=False)
    assert clock.poll(2, busy=False) == []
    clock.note_event(3)
    assert clock.poll(3, busy=False) == [Resumed()]


def test_a_page_that_returns_resumes_a_session_that_was_idle_before(make_clock):
    clock = make_clock(idle_after_s=20)
    clock.poll(20, busy=False)
    clock.note_visibility(25, hidden=True)
    assert clock.poll(25, busy=False) == []
    clock.note_visibility(60, hidden=False)
    assert clock.poll(60, busy=False) == [Resumed()]


@pytest.mark.parametrize(("limit_s", "notice_s"), [(3600, 60), (240, 60), (40, 10)])
def test_the_longest_session_is_announced_before_it_ends(make_clock, limit_s, notice_s):
    clock = make_clock(max_session_s=limit_s)
    assert clock.wait_s(0, busy=True) == limit_s - notice_s
    assert clock.poll(limit_s - notice_s - 0.1, busy=True) == []
    assert clock.poll(limit_s - notice_s, busy=True) == [Ending("longest_session", notice_s)]
    assert clock.wait_s(limit_s - notice_s, busy=True) == notice_s
    assert clock.poll(limit_s - 1, busy=True) == [] and clock.ended(limit_s - 0.1) is None
    assert clock.ended(limit_s) == "longest_session"


def test_the_end_of_a_pause_is_announced_and_a_key_takes_it_back(make_clock):
    clock = make_clock(idle_after_s=20, max_paused_s=300)
    clock.poll(20, busy=False)
    assert clock.wait_s(20, busy=False) == 240
    assert clock.poll(260, busy=False) == [Ending("idle", 60)]
    clock.note_event(300)
    assert clock.poll(300, busy=False) == [Resumed()] and clock.ended(320) is None
    assert clock.poll(320, busy=False) == [Paused("idle")]
    assert clock.poll(560, busy=False) == [Ending("idle", 60)]
    assert clock.ended(619.9) is None and clock.ended(620) == "idle"


def test_a_session_that_is_not_open_yet_has_no_end():
    clock = IdleClock(ClientLimits(max_session_s=10, max_paused_s=10))
    assert clock.ended(1e6) is None


def test_the_time_with_other_sockets_counts_for_the_longest_session(make_clock):
    clock = make_clock(max_session_s=100, idle_after_s=20)
    clock.start(0.0, age_s=70.0)
    assert [clock.ended(29.9), clock.ended(30)] == [None, "longest_session"]
    assert clock.poll(19.9, busy=False) == [Ending("longest_session", 11)]
