"""The order in which one rank executes commands, and those that it drops."""

import math
from concurrent.futures import Future

import pytest

from lingbot.errors import SessionClosed
from lingbot.runtime.commands import OpenSession, StepSession, Stop
from lingbot.runtime.worker import Worker
from tests.lingbot.fake_engine import FakeEngine, Letter
from tests.lingbot.toy import make_spec


def execute_all(engine, *queued):
    """Run (deadline, command) pairs that were all submitted beforehand; none is due yet."""
    worker = Worker(engine, clock=lambda: -100.0)
    for deadline, command in [*queued, (math.inf, Stop())]:
        worker.submit(command, deadline=deadline)
    worker.run()
    return engine.done


OPENED = [(-math.inf, OpenSession(name, make_spec(seed=ord(name)))) for name in "abc"]


def test_the_earliest_deadline_is_first_and_ties_go_by_arrival():
    steps = [(3, "a", "1"), (1, "c", "2"), (1, "b", "3"), (1, "c", "4"), (2, "a", "5"),
             (-1, "b", "6")]  # fmt: skip
    queued = [
        (deadline, StepSession(session_id=name, actions=[action]))
        for deadline, name, action in steps
    ]
    assert execute_all(FakeEngine(), *OPENED, *queued) == ["b6", "c2", "b3", "c4", "a5", "a1"]


def test_a_session_with_a_late_deadline_gets_its_turn():
    """The other session is always due at once, and submits a step as soon as one is executed."""

    class Eager(FakeEngine):
        def denoise(self, session, actions, **options):
            now = len(self.done)
            if session == "a" and now < 8:
                worker.submit(StepSession(session_id="a", actions=[""]), deadline=now + 1)
            return super().denoise(session, actions)

    engine = Eager()
    worker = Worker(engine, clock=lambda: -100.0)
    for deadline, command in [
        *OPENED,
        (4.5, StepSession(session_id="b", actions=[""])),
        (0, StepSession(session_id="a", actions=[""])),
    ]:
        worker.submit(command, deadline=deadline)
    worker.submit(Stop(), deadline=math.inf)
    worker.run()
    assert engine.done == [*"aaaaa", "b", *"aaa"]


def test_a_cancelled_command_leaves_the_queue_at_once_and_is_not_executed():
    engine = FakeEngine()
    worker = Worker(engine)
    assert worker.submit(StepSession(session_id="a", actions=["1"]), deadline=0).cancel()
    assert len(worker._scheduler) == 0
    worker.submit(Stop(), deadline=1)
    worker.run()
    assert engine.done == []


def test_a_session_that_ends_takes_its_queued_commands_along():
    """Those of another session stay. Nothing of the session is executed, however long the queue."""
    engine = FakeEngine()
    worker = Worker(engine)
    queued = [
        worker.submit(command, deadline=0)
        for _ in range(20)
        for command in (
            OpenSession("a", make_spec(seed=ord("a"))),
            StepSession(session_id="a", actions=["1"]),
        )
    ]
    worker.submit(OPENED[1][1], deadline=0)
    worker.submit(StepSession(session_id="b", actions=["1"]), deadline=9)
    worker.end_session("a")
    for result in queued:
        with pytest.raises(SessionClosed):
            result.result(0)
    worker.submit(Stop(), deadline=math.inf)
    worker.run()
    assert engine.done == ["b1"]


def test_a_session_that_ends_while_it_is_opened_is_freed_right_after():
    class Opening(FakeEngine):
        def open(self, spec):
            worker.end_session("a")
            self.done.append("open")
            return super().open(spec)

    engine = Opening()
    worker = Worker(engine)
    worker.submit(OPENED[0][1], deadline=0)
    worker.submit(StepSession(session_id="b", actions=["1"]), deadline=-1e9).add_done_callback(
        Future.exception
    )
    worker.submit(Stop(), deadline=math.inf)
    worker.run()
    assert engine.done == ["open", "close a"]
    assert worker._sessions == {}


def test_opens_and_the_steps_of_a_running_session_alternate():
    """Each open takes longer than a chunk plays."""

    class Walking(FakeEngine):
        def open(self, spec):
            nonlocal now
            now += 2
            self.done.append("open " + super().open(spec))
            return Letter(self.done[-1][-1])

        def denoise(self, session, actions, **options):
            nonlocal now
            now += 0.4
            if len(self.done) < 8:
                worker.submit(StepSession(session_id=session, actions=[""]), deadline=now)
            return super().denoise(session, actions)

    now, engine = 100.0, Walking()
    worker = Worker(engine, clock=lambda: now)
    worker.submit(StepSession(session_id="a", actions=[""]), deadline=101)
    for _, command in OPENED:
        worker.submit(command, deadline=now)
    worker.submit(Stop(), deadline=math.inf)
    worker.run()
    assert engine.done == ["open a", "a", "a", "open b", "a", "a", "open c", "a", "a"]


def test_a_step_for_which_nobody_watches_lets_the_live_ones_go_first():
    """Its deadline is the earliest. Then it takes a turn with the opens, by arrival."""
    engine = FakeEngine()
    worker = Worker(engine, clock=lambda: 0.0)
    for _, command in OPENED:
        worker.submit(command, deadline=-math.inf)
    for _ in OPENED:
        worker._lead()
    worker.submit(StepSession(session_id="a", actions=["clip"]), deadline=0.1, is_live=False)
    worker.submit(OpenSession("d", make_spec(seed=ord("d"))), deadline=0.1)
    for name in "bc":
        worker.submit(StepSession(session_id=name, actions=["live"]), deadline=0.5)
    assert worker.position("d") == 2
    worker.submit(Stop(), deadline=math.inf)
    worker.run()
    assert engine.done == ["blive", "clive", "aclip"] and "d" in worker._sessions


@pytest.mark.parametrize("is_live", [True, False])
def test_whatever_a_session_has_queued_goes_with_its_client(is_live):
    """A step of a live one or of a clip, and a suspension that has not begun."""
    engine = FakeEngine()
    engine.suspend_frees_memory = True
    worker = Worker(engine, free_host=lambda: None)
    worker.submit(OPENED[0][1], deadline=-math.inf)
    worker._lead()
    queued = [
        worker.submit(StepSession(session_id="a", actions=["1"]), deadline=0, is_live=is_live)
    ]
    queued.append(worker.suspend("a"))
    worker.end_session("a")
    for result in queued:
        with pytest.raises(SessionClosed):
            result.result(0)
    worker.submit(Stop(), deadline=math.inf)
    worker.run()
    assert engine.done == ["close a"]


def test_an_open_has_a_position_while_it_waits():
    worker = Worker(FakeEngine())
    for _, command in OPENED:
        worker.submit(command, deadline=0)
    worker.end_session("a")
    assert [worker.position(name) for name in "abc"] == [None, 1, 2]
