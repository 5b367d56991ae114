import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lingbot.runtime.scheduler import Scheduler


def drain(scheduler, *, now=0.0):
    """Everything that waits, in the order it is returned."""
    return [scheduler.next(now) for _ in range(len(scheduler))]


def test_the_earliest_deadline_is_first_and_ties_go_by_arrival():
    scheduler = Scheduler()
    for deadline, entry in [(3, "a"), (1, "b"), (1, "c"), (1, "d"), (2, "e"), (-1, "f")]:
        scheduler.add(entry, owner="", deadline=deadline)
    assert drain(scheduler) == ["f", "b", "c", "d", "e", "a"]


@given(st.lists(st.integers(0, 5)))
def test_the_order_is_that_of_a_stable_sort(deadlines):
    scheduler = Scheduler()
    for number, deadline in enumerate(deadlines):
        scheduler.add(number, owner="", deadline=deadline)
    assert drain(scheduler) == sorted(range(len(deadlines)), key=deadlines.__getitem__)


def test_an_entry_with_a_late_deadline_gets_its_turn():
    """The other session adds its next entry, due at once, as soon as one is returned."""
    scheduler = Scheduler()
    scheduler.add("late", owner="", deadline=4.5)
    scheduler.add("eager", owner="", deadline=0)
    order = []
    for now in range(1, 9):
        order.append(scheduler.next(now))
        if order[-1] == "eager":
            scheduler.add("eager", owner="", deadline=now)
    assert order == [*["eager"] * 5, "late", *["eager"] * 2]


def test_a_cancelled_entry_is_removed_at_once_and_never_returned():
    scheduler = Scheduler()
    first, second = (scheduler.add(entry, owner="", deadline=0) for entry in "ab")
    assert scheduler.cancel(first)
    assert len(scheduler) == 1
    assert not scheduler.cancel(first)
    assert scheduler.next(0) == "b"
    assert not scheduler.cancel(second)
    assert scheduler.next(0) is None


def test_the_entries_of_an_owner_are_removed_together():
    scheduler = Scheduler()
    for entry in ("a1", "b1", "a2", "c1", "a3"):
        scheduler.add(entry, owner=entry[0], deadline=0)
    assert scheduler.cancel_owner("a") == ["a1", "a2", "a3"]
    assert scheduler.cancel_owner("a") == []
    assert drain(scheduler) == ["b1", "c1"]


# ---- entries with spacing: opens, and the steps of clips

CHUNK_S = 0.75


def add_open(scheduler, owner, *, now):
    scheduler.add(f"open {owner}", owner=owner, deadline=now, spacing_s=CHUNK_S)


def test_a_waiting_step_goes_between_two_opens():
    """The step is already late when the first open ends."""
    scheduler = Scheduler()
    for owner in "abc":
        add_open(scheduler, owner, now=0)
    assert scheduler.next(0) == "open a"
    scheduler.add("step", owner="w", deadline=0.5)
    assert scheduler.next(2) == "step"
    assert scheduler.next(2.4) == "open b"
    scheduler.add("step", owner="w", deadline=3.1)
    assert scheduler.next(4.4) == "step"
    assert drain(scheduler, now=4.8) == ["open c"]


def test_an_open_gets_its_turn_though_steps_are_always_due():
    scheduler = Scheduler()
    add_open(scheduler, "a", now=0)
    scheduler.add("step", owner="w", deadline=0)
    order = []
    for now in (0.0, 0.3, 0.6, 0.9, 1.2, 1.5):
        order.append(scheduler.next(now))
        scheduler.add("step", owner="w", deadline=now)
    assert order == ["step", "step", "step", "step", "open a", "step"]


def test_opens_without_a_step_follow_each_other_at_once():
    scheduler = Scheduler()
    for owner in "abc":
        add_open(scheduler, owner, now=0)
    assert drain(scheduler, now=0.1) == ["open a", "open b", "open c"]


# The machine does other work, too, so an example has no deadline.
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_step_waits_for_one_open_at_most(data):
    """Steps and opens arrive at random while entries of random lengths are executed."""
    scheduler = Scheduler()
    now, running, opens_since = 0.0, "", {}
    for number in range(40):
        for owner in range(data.draw(st.integers(0, 3))):
            arrived = now + 0.01 * owner
            if data.draw(st.booleans()):
                add_open(scheduler, f"{number}.{owner}", now=arrived)
            else:
                step = f"step {number}.{owner}"
                opens_since[step] = running.startswith("open")
                deadline = arrived + data.draw(st.floats(0, CHUNK_S))
                scheduler.add(step, owner="w", deadline=deadline)
        now += data.draw(st.floats(0.1, 2))
        running = scheduler.next(now) or ""
        opens_since.pop(running, None)
        if running.startswith("open"):
            opens_since = {step: opens + 1 for step, opens in opens_since.items()}
        assert all(opens <= 1 for opens in opens_since.values())


@pytest.mark.parametrize("num_clips", [1, 3, 20])
def test_clips_delay_a_live_step_by_one_chunk_at_most(num_clips):
    """Each clip has its next step waiting at all times. A chunk takes 0.4 s and plays 0.75 s."""
    scheduler, now, chunk_s = Scheduler(), 0.0, 0.4

    def add_clip_step(clip):
        deadline = now + CHUNK_S
        scheduler.add("clip", owner=f"clip {clip}", deadline=deadline, spacing_s=CHUNK_S)
        owners.append(clip)

    owners, order, submitted, worst = [], [], None, 0.0
    for clip in range(num_clips):
        add_clip_step(clip)
    while now < 60:
        if submitted is None and len(order) % 2:
            submitted = now
            scheduler.add("live", owner="w", deadline=now + 0.1)
        order.append(scheduler.next(now))
        if order[-1] == "live":
            worst, submitted = max(worst, now - submitted), None
        else:
            add_clip_step(owners.pop(0))
        now += chunk_s
    assert worst <= chunk_s
    assert order.count("clip") > len(order) / 3


def test_clips_with_nobody_beside_them_follow_each_other_at_once():
    scheduler = Scheduler()
    for number in range(3):
        scheduler.add(number, owner="clip", deadline=9, spacing_s=CHUNK_S)
    assert drain(scheduler, now=0.1) == [0, 1, 2]


def test_an_open_has_a_position_until_it_is_its_turn():
    scheduler = Scheduler()
    assert scheduler.position("a") is None
    scheduler.add("step", owner="w", deadline=0)
    for owner in "abc":
        add_open(scheduler, owner, now=0)
    assert [scheduler.position(owner) for owner in "abcw"] == [1, 2, 3, None]
    scheduler.cancel_owner("a")
    assert drain(scheduler)[:2] == ["step", "open b"]
    assert [scheduler.position(owner) for owner in "abc"] == [None, None, None]


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
    scheduler.add("a", owner="", deadline=9)
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
