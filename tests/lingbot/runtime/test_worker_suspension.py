"""The commands that suspend a session and resume it. `test_suspension` has the bits themselves."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from lingbot.errors import SessionClosed
from lingbot.runtime import worker as worker_module
from lingbot.runtime.commands import CloseSession, OpenSession, StepSession
from tests.lingbot.running_worker import execute, running, walk_ahead
from tests.lingbot.toy import WALK, make_engine, make_spec
from tests.waiting import TIMEOUT_S


@pytest.fixture
def moving():
    """An engine that moves the tensors of suspended sessions though it is on a CPU."""
    engine = make_engine()
    engine.suspend_frees_memory = True
    return engine


@pytest.fixture
def small_parts(monkeypatch):
    """Many parts: each moves one storage of a toy session."""
    monkeypatch.setattr(worker_module, "SUSPEND_BYTES", 1)


def test_a_session_is_suspended_part_by_part_and_resumed_by_its_next_step(moving, small_parts):
    twin = moving.open(make_spec())
    expected = [moving.step(twin, actions) for actions in WALK]
    with running(moving) as worker:
        execute(worker, OpenSession("a", make_spec()))
        assert worker.suspend_frees_memory
        shown = []
        for actions in WALK:
            shown += walk_ahead(worker, "a", [actions])
            assert worker.suspend("a").result(TIMEOUT_S) is True
            assert all(t.untyped_storage().nbytes() == 0 for t in worker._sessions["a"].tensors())
            assert worker.suspend("a").result(TIMEOUT_S) is True  # once more changes nothing
    assert all(map(np.array_equal, shown, expected))


def test_the_steps_of_others_go_between_the_parts(moving, small_parts):
    """The deadline of a part is a chunk of media away. The other session is always due."""
    order = []
    with running(moving) as worker:
        for name in "ab":
            execute(worker, OpenSession(name, make_spec()))
        held = threading.Event()
        execute_command = worker._execute

        def record(command):
            if isinstance(command, StepSession):
                held.wait(TIMEOUT_S)
            order.append(type(command).__name__)
            return execute_command(command)

        worker._execute = record
        now = time.monotonic()
        steps = [worker.submit(StepSession(session_id="b", actions=WALK[0]), deadline=now)]
        suspended = worker.suspend("a")
        steps += [
            worker.submit(StepSession(session_id="b", actions=WALK[0]), deadline=now)
            for _ in range(4)
        ]
        held.set()
        assert suspended.result(TIMEOUT_S) is True
        for step in steps:
            step.result(TIMEOUT_S).result(TIMEOUT_S)
    assert order[:5] == ["StepSession"] * 5
    assert order.count("SuspendSession") > 4


def test_a_step_that_comes_while_a_session_is_being_suspended_ends_that(moving, small_parts):
    twin = moving.open(make_spec())
    expected = moving.step(twin, WALK[0])
    with running(moving) as worker:
        execute(worker, OpenSession("a", make_spec()))
        move = moving.suspend
        stepped = []

        def step_after_the_first_part(session, **options):
            if not stepped:
                stepped.append(
                    worker.submit(StepSession(session_id="a", actions=WALK[0]), deadline=0)
                )
            return move(session, **options)

        moving.suspend = step_after_the_first_part
        assert worker.suspend("a").result(TIMEOUT_S) is False
        assert np.array_equal(stepped[0].result(TIMEOUT_S).result(TIMEOUT_S)[0], expected)
        assert worker._sessions["a"].suspension is None


def test_a_chunk_that_is_being_decoded_is_finished_before_its_session_moves(moving):
    twin = moving.open(make_spec())
    expected = [moving.step(twin, actions) for actions in WALK[:2]]
    decode, may_decode, order = moving.vae.decode, threading.Event(), []

    def decode_later(latents, state):
        may_decode.wait(TIMEOUT_S)
        order.append("decoded")
        return decode(latents, state)

    begin = moving.suspend

    def suspend(session, **options):
        order.append("suspended")
        return begin(session, **options)

    moving.vae = SimpleNamespace(**parts_of(moving.vae), decode=decode_later)
    moving.suspend = suspend
    with running(moving) as worker:
        execute(worker, OpenSession("a", make_spec()))
        first = execute(worker, StepSession(session_id="a", actions=WALK[0]))
        suspended = worker.suspend("a")
        may_decode.set()
        assert suspended.result(TIMEOUT_S) is True
        shown = [first.result(0)[0], *walk_ahead(worker, "a", WALK[1:2])]
    assert order == ["decoded", "suspended", "decoded"]
    assert all(map(np.array_equal, shown, expected))


def parts_of(vae):
    return {name: getattr(vae, name) for name in ("encode_image", "new_decoder_state",
                                                  "state_tensors")}  # fmt: skip


def test_a_session_that_ends_while_it_is_being_suspended_is_freed(moving, small_parts):
    with running(moving) as worker:
        execute(worker, OpenSession("a", make_spec()))
        session = worker._sessions["a"]
        move = moving.suspend

        def end_meanwhile(session, **options):
            worker.end_session("a")
            return move(session, **options)

        moving.suspend = end_meanwhile
        with pytest.raises(SessionClosed):
            worker.suspend("a").result(TIMEOUT_S)
        execute(worker, CloseSession("a"))
        assert session.suspension is None and worker._sessions == {}
        with pytest.raises(SessionClosed, match="session a is not open"):
            worker.suspend("a").result(TIMEOUT_S)


def test_a_session_stays_where_host_memory_has_no_room(moving, small_parts, caplog):
    """It has room for two parts, so that a third of the session has moved, and moves back."""
    free = iter([worker_module.HOST_RESERVE + 1] * 2 + [worker_module.HOST_RESERVE] * 9)
    twin = moving.open(make_spec())
    with running(moving, free_host=lambda: next(free)) as worker:
        execute(worker, OpenSession("a", make_spec()))
        assert worker.suspend("a").result(TIMEOUT_S) is False
        assert worker._sessions["a"].suspension is None
        assert "session a keeps its memory" in caplog.text
        (frames,) = walk_ahead(worker, "a", WALK[:1])
    assert np.array_equal(frames, moving.step(twin, WALK[0]))


def test_on_a_cpu_a_session_is_suspended_at_once_and_frees_nothing(engine):
    with running(engine, free_host=lambda: 0) as worker:
        execute(worker, OpenSession("a", make_spec()))
        assert not worker.suspend_frees_memory
        assert worker.suspend("a").result(TIMEOUT_S) is True
        assert worker._sessions["a"].window.k_NBFTHD.untyped_storage().nbytes() > 0
