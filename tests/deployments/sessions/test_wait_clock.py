import pytest

from deployments.sessions.wait_clock import WaitClock

FULL = "every world is taken; gave up after 60 s"
COLD = "the world is still warming up; gave up after 900 s"


@pytest.fixture
def clock():
    return WaitClock(queue_timeout_s=60, warm_up_timeout_s=900, now=10)


def test_a_client_gives_up_after_the_queue_timeout(clock):
    clock.note("queued", 10)
    assert clock.give_up_reason(70) is None
    assert clock.give_up_reason(70.5) == FULL


def test_a_client_gives_up_after_the_warm_up_timeout(clock):
    clock.note("starting", 10)
    assert clock.give_up_reason(910) is None
    assert clock.give_up_reason(910.5) == COLD


def test_the_queue_clock_starts_when_the_group_is_ready(clock):
    clock.note("starting", 10.5)
    clock.note("queued", 800)
    assert clock.give_up_reason(860) is None
    assert clock.give_up_reason(860.5) == FULL


def test_the_queue_clock_stands_still_while_a_group_starts(clock):
    clock.note("queued", 10)
    clock.note("starting", 69)
    assert clock.give_up_reason(400) is None
    clock.note("queued", 400)
    assert clock.give_up_reason(401) is None
    assert clock.give_up_reason(401.5) == FULL


def test_a_group_that_restarts_gives_no_second_full_wait(clock):
    for start in range(10, 1000, 100):
        clock.note("starting", start)
        assert clock.give_up_reason(start + 90) is None
        clock.note("queued", start + 90)
        clock.note("queued", start + 95)
    clock.note("starting", 1010)
    assert clock.give_up_reason(1011) == COLD


def test_the_time_before_the_first_note_counts_for_its_state(clock):
    assert clock.give_up_reason(10_000) is None
    clock.note("queued", 71)
    assert clock.give_up_reason(71) == FULL


def test_the_whole_wait_keeps_the_place_of_a_client_that_asks_again(clock):
    clock.note("starting", 20)
    clock.note("queued", 30)
    assert clock.waited_s(35) == 25
