"""Restorations by a worker: their parts between other sessions' steps, and their ends."""

import math

import numpy as np
import pytest
import torch

from lingbot.errors import LingbotError, SessionClosed
from lingbot.runtime.commands import (
    ContinueRestore,
    OpenSession,
    RestoreSession,
    StepSession,
    Stop,
    TakeSnapshot,
)
from lingbot.runtime.worker import Worker
from tests.lingbot.running_worker import execute, running, walk_ahead
from tests.lingbot.toy import WALK, encode, make_spec
from tests.waiting import TIMEOUT_S

CONTEXTS = {"a toy": encode("a toy")}


@pytest.fixture
def world(engine):
    """A session of seven chunks, with its snapshot and its frames after them."""
    session = engine.open(make_spec())
    for index in range(7):
        shown = engine.step(session, WALK[index % len(WALK)])
    snapshot = session.snapshot()
    other = engine.restore(snapshot, CONTEXTS)
    return snapshot, shown[-1], [engine.step(other, actions) for actions in WALK]


@pytest.mark.parametrize("exact", [False, True])
def test_a_worker_restores_a_world_and_shows_its_last_frame(engine, world, exact):
    snapshot, last_frame, expected = world
    if exact:
        other = engine.restore(snapshot, CONTEXTS, exact=True)
        expected = [engine.step(other, actions) for actions in WALK]
    with running(engine) as worker:
        opening = execute(
            worker,
            RestoreSession(session_id="a", snapshot=snapshot, contexts=CONTEXTS, exact=exact),
        )
        shown = walk_ahead(worker, "a")
        again = execute(worker, TakeSnapshot("a"))
    assert opening.origin == snapshot.origin
    difference = np.abs(opening.last_frame.astype(int) - last_frame).max()
    assert difference == 0 if exact else difference < 60
    assert all(map(np.array_equal, shown, expected))
    assert again.next_chunk == 12 and len(again.journal.actions) == 12


def test_a_world_before_its_first_chunk_has_no_last_frame(engine):
    snapshot = engine.open(make_spec()).snapshot()
    with running(engine) as worker:
        assert (
            execute(
                worker, RestoreSession(session_id="a", snapshot=snapshot, contexts=CONTEXTS)
            ).last_frame
            is None
        )
        shown = walk_ahead(worker, "a", WALK[:1])
    assert np.array_equal(shown[0], engine.step(engine.open(make_spec()), WALK[0]))


def test_other_sessions_steps_go_between_the_parts(engine, world):
    """A step that is due waits for one part at most. The other session is not changed by it."""
    snapshot, _, expected = world
    order, now = [], 0.0
    with running(engine, clock=lambda: now) as worker:
        execute(worker, OpenSession("b", make_spec(seed=2)))
        execute_command = worker._execute

        def record(command):
            order.append(type(command).__name__)
            if isinstance(command, RestoreSession | ContinueRestore):
                steps.append(
                    worker.submit(StepSession(session_id="b", actions=WALK[0]), deadline=now)
                )
            return execute_command(command)

        steps, worker._execute = [], record
        worker.submit(
            RestoreSession(session_id="a", snapshot=snapshot, contexts=CONTEXTS), deadline=now
        ).result(TIMEOUT_S)
        shown = walk_ahead(worker, "a")
        num_parts = order.count("ContinueRestore") + 1
        for step in steps:
            step.result(TIMEOUT_S).result(TIMEOUT_S)
    assert num_parts >= 3
    parts = [name for name in order if name != "StepSession"][:num_parts]
    assert order[: 2 * num_parts : 2] == parts and set(order[1 : 2 * num_parts : 2]) == {
        "StepSession"
    }
    assert all(map(np.array_equal, shown, expected))


def test_a_restoration_takes_the_place_of_an_open_world(engine, world):
    """Its memory is free before the new window is allocated. A refused one leaves it alone."""
    snapshot, _, expected = world
    with running(engine) as worker:
        execute(worker, OpenSession("a", make_spec()))
        old = worker._sessions["a"]
        with pytest.raises(LingbotError, match="no context") as refused:
            execute(worker, RestoreSession(session_id="a", snapshot=snapshot, contexts={}))
        assert refused.value.field == "contexts"
        assert not old.broken
        walk_ahead(worker, "a", WALK[:2])
        execute(worker, RestoreSession(session_id="a", snapshot=snapshot, contexts=CONTEXTS))
        assert old.broken and old.window.k_NBFTHD.numel() == 0
        assert all(map(np.array_equal, walk_ahead(worker, "a"), expected))


def test_an_open_takes_the_place_of_an_open_world(engine):
    expected = engine.step(engine.open(make_spec(seed=2)), WALK[0])
    with running(engine) as worker:
        execute(worker, OpenSession("a", make_spec()))
        old = worker._sessions["a"]
        with pytest.raises(LingbotError, match="must be 1..8"):
            execute(worker, OpenSession("a", make_spec(num_steps=9)))
        assert not old.broken
        opening = execute(worker, OpenSession("a", make_spec(seed=2)))
        assert old.broken and opening.origin.seed == 2
        assert np.array_equal(walk_ahead(worker, "a", WALK[:1])[0], expected)


@pytest.mark.parametrize("parts_before", [0, 1, 2])
def test_a_session_that_ends_while_it_is_restored_is_freed(engine, world, parts_before):
    snapshot, _, _ = world
    worker = Worker(engine)
    restored = worker.submit(
        RestoreSession(session_id="a", snapshot=snapshot, contexts=CONTEXTS), deadline=0
    )
    for _ in range(parts_before):
        worker._lead()
    session = worker._restoring["a"].session if parts_before else None
    worker.end_session("a")
    worker.submit(Stop(), deadline=math.inf)
    worker.run()
    with pytest.raises(SessionClosed):
        restored.result(TIMEOUT_S)
    assert worker._restoring == worker._sessions == {}
    assert session is None or session.broken


def test_a_restoration_that_fails_frees_its_session(engine, world, monkeypatch):
    snapshot, _, expected = world
    with running(engine) as worker:
        with monkeypatch.context() as patch:
            patch.setattr(engine.model, "write_cache", None)
            with pytest.raises(TypeError):
                execute(
                    worker, RestoreSession(session_id="a", snapshot=snapshot, contexts=CONTEXTS)
                )
        assert worker._restoring == {}
        with monkeypatch.context() as patch:
            patch.setattr(engine.vae.network, "decode", None)
            with pytest.raises(TypeError):
                execute(
                    worker, RestoreSession(session_id="a", snapshot=snapshot, contexts=CONTEXTS)
                )
        with pytest.raises(SessionClosed):
            execute(worker, StepSession(session_id="a", actions=WALK[0]))
        assert worker._restoring == worker._sessions == {}
        execute(worker, RestoreSession(session_id="a", snapshot=snapshot, contexts=CONTEXTS))
        assert all(map(np.array_equal, walk_ahead(worker, "a"), expected))


def test_a_restoration_in_the_queue_has_a_position_and_goes_with_its_client(engine, world):
    snapshot, _, _ = world
    worker = Worker(engine)
    opened = worker.submit(OpenSession("b", make_spec()), deadline=0)
    restored = worker.submit(
        RestoreSession(session_id="a", snapshot=snapshot, contexts=CONTEXTS), deadline=0
    )
    assert worker.position("b") == 1 and worker.position("a") == 2
    worker.end_session("a")
    worker.submit(Stop(), deadline=math.inf)
    worker.run()
    with pytest.raises(SessionClosed):
        restored.result(0)
    assert opened.result(0).origin.seed == 7


def test_a_step_under_a_new_prompt_may_rebuild_the_window(engine, world):
    snapshot, _, _ = world
    context, options = encode("lava"), {"prompt": "lava", "recache": True}
    other = engine.restore(snapshot, CONTEXTS)
    expected = engine.denoise(other, WALK[0], context=context, **options)
    with running(engine) as worker:
        measured = []
        worker.on_chunk = lambda size, *busy_s: measured.append(busy_s)
        worker.is_warming_up = True  # all chunks of steady sessions count as typical
        execute(worker, RestoreSession(session_id="a", snapshot=snapshot, contexts=CONTEXTS))
        walk = StepSession(
            session_id="a", actions=WALK[0], context=context, prompt="lava", recache=True
        )
        _, latents = execute(worker, walk).result(TIMEOUT_S)
        assert measured == []  # it takes longer than others
        assert execute(worker, TakeSnapshot("a")).journal.recached == (7,)
    assert torch.equal(torch.from_numpy(latents)[None], expected)
