from hypothesis import given
from hypothesis import strategies as st

from lingbot.runtime.scheduler import Scheduler


def drain(scheduler, *, now=0.0):
    """Everything that waits, in the order it is returned."""
    return [scheduler.next(now) for _ in range(len(scheduler))]


def test_the_earliest_deadline_is_first_and_ties_go_by_arrival():
    scheduler = Scheduler()
    for deadline, entry in [(3, "a"), (1, "b"), (1, "c"), (1, "d"), (2, "e"), (-1, "f")]:
        scheduler.add(entry, deadline=deadline)
    assert drain(scheduler) == ["f", "b", "c", "d", "e", "a"]


@given(st.lists(st.integers(0, 5)))
def test_the_order_is_that_of_a_stable_sort(deadlines):
    scheduler = Scheduler()
    for number, deadline in enumerate(deadlines):
        scheduler.add(number, deadline=deadline)
    assert drain(scheduler) == sorted(range(len(deadlines)), key=deadlines.__getitem__)


def test_an_entry_with_a_late_deadline_gets_its_turn():
    """The other session adds its next entry, due at once, as soon as one is returned."""
    scheduler = Scheduler()
    scheduler.add("late", deadline=4.5)
    scheduler.add("eager", deadline=0)
    order = []
    for now in range(1, 9):
        order.append(scheduler.next(now))
        if order[-1] == "eager":
            scheduler.add("eager", deadline=now)
    assert order == [*["eager"] * 5, "late", *["eager"] * 2]


def test_a_cancelled_entry_is_removed_at_once_and_never_returned():
    scheduler = Scheduler()
    first, second = (scheduler.add(entry, deadline=0) for entry in "ab")
    assert scheduler.cancel(first)
    assert len(scheduler) == 1
    assert not scheduler.cancel(first)
    assert scheduler.next(0) == "b"
    assert not scheduler.cancel(second)
    assert scheduler.next(0) is None


def test_an_idle_scheduler_returns_a_heartbeat_each_period():
    scheduler = Scheduler(heartbeat=lambda: "beat", heartbeat_s=5)
    assert scheduler.next(100) is None
    assert scheduler.wait_s(102) == 3
    assert scheduler.next(104.9) is None
    assert scheduler.next(105) == "beat"
    assert scheduler.next(105) is None
    assert scheduler.wait_s(106) == 4
    assert scheduler.next(110) == "beat"


def test_an_entry_restarts_the_idle_time():
    """From the next call that finds nothing, because executing an entry takes time."""
    scheduler = Scheduler(heartbeat=lambda: "beat", heartbeat_s=5)
    assert scheduler.next(0) is None
    scheduler.add("a", deadline=9)
    assert scheduler.next(6) == "a"
    assert scheduler.wait_s(7) == 5
    assert scheduler.next(20) is None
    assert scheduler.next(24) is None
    assert scheduler.next(25) == "beat"


def test_without_heartbeats_there_is_nothing_to_wait_for():
    scheduler = Scheduler()
    assert scheduler.next(0) is None
    assert scheduler.wait_s(0) is None
    assert scheduler.next(10**9) is None
