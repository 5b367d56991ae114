"""Two ranks that execute the same commands, in real processes."""

import json
import math
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed import FileStore
from torch.multiprocessing.spawn import start_processes

from lingbot.errors import LingbotError, SessionClosed
from lingbot.parallel.process_group import join, spawn_ranks
from lingbot.runtime.commands import (
    CloseSession,
    OpenSession,
    RestoreSession,
    StepSession,
    Stop,
    TakeSnapshot,
)
from lingbot.runtime.warm_up import warm_up
from lingbot.runtime.worker import Worker
from tests.lingbot.running_worker import execute, walk_ahead
from tests.lingbot.toy import WALK, encode, make_engine, make_spec
from tests.waiting import TIMEOUT_S, wait_until

OTHER_CONTEXT = encode("snow, a lake, fog, at night, pine trees, red rock, " * 1000)


def lead(worker, scenario):
    """Run a scenario on rank 0 and return its result; the other ranks follow until its end."""
    if not worker.is_leader:
        return worker.run()
    leader = threading.Thread(target=worker.run, daemon=True)
    leader.start()
    try:
        return scenario(worker)
    finally:
        execute(worker, Stop(), deadline=math.inf)
        leader.join(TIMEOUT_S)


def state_of(session):
    """The parts of a session that must not differ between ranks."""
    text = [float(part.double().sum()) for kv in session.text for part in kv]
    past = session.snapshot()
    latents = [chunk.latents.tobytes() for chunk in past.chunks]
    return session.next_chunk, session.window.num_frames, session.broken, text, latents


def on_all_ranks(value):
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def refusal_of(worker, command):
    """The error that a refused command raises."""
    with pytest.raises(LingbotError) as refused:
        execute(worker, command)
    return type(refused.value).__name__, str(refused.value), refused.value.field


def walk_together(worker):
    """Refusals, then two sessions by turns, and a third that is closed on its way.

    One of them is suspended twice.
    """
    refusals = [
        refusal_of(worker, OpenSession("a", make_spec(num_steps=9))),
        refusal_of(
            worker, OpenSession("a", make_spec(first_frame=np.zeros((32, 48, 3), np.float32)))
        ),
        refusal_of(worker, StepSession(session_id="a", actions=WALK[0])),
    ]
    warm_up(worker)
    for name, seed in (("a", 7), ("b", 2), ("c", 3)):
        execute(worker, OpenSession(name, make_spec(seed=seed)))
    refusals += [
        refusal_of(worker, StepSession(session_id="a", actions=["w"])),
        refusal_of(worker, StepSession(session_id="a", actions=["w", "x", ""])),
    ]
    decoding = {"a": [], "b": []}
    for index, actions in enumerate(WALK):
        context = OTHER_CONTEXT if index == 3 else None
        decoding["a"].append(
            execute(
                worker,
                StepSession(
                    session_id="a", actions=actions, context=context, prompt="another prompt"
                ),
            )
        )
        decoding["b"].append(execute(worker, StepSession(session_id="b", actions=actions[::-1])))
        if index in (0, 3):
            assert worker.suspend("a").result(TIMEOUT_S) is True
        if index == 1:
            execute(worker, StepSession(session_id="c", actions=actions))
            execute(worker, CloseSession("c"))
            refusals.append(refusal_of(worker, StepSession(session_id="c", actions=actions)))
    frames = {
        name: [one.result(TIMEOUT_S)[0] for one in chunks] for name, chunks in decoding.items()
    }
    return frames, refusals, restore_together(worker)


CONTEXTS = {"a toy": encode("a toy"), "another prompt": OTHER_CONTEXT}
RECACHED = StepSession(
    session_id="d", actions=WALK[0], context=CONTEXTS["a toy"], prompt="a toy", recache=True
)


def restore_together(worker):
    """A refusal, then a world that goes on, and rebuilds its window under a new prompt.

    Another restoration is ended before its last part.
    """
    snapshot = execute(worker, TakeSnapshot("a"))
    refusals = [refusal_of(worker, RestoreSession(session_id="b", snapshot=snapshot, contexts={}))]
    may_decode = threading.Event()
    worker._decoding.submit(may_decode.wait, TIMEOUT_S)  # the last part waits for it
    ended = worker.submit(
        RestoreSession(session_id="e", snapshot=snapshot, contexts=CONTEXTS), deadline=0
    )
    wait_until(lambda: "e" in worker._restoring)
    worker.end_session("e")
    may_decode.set()
    with pytest.raises(SessionClosed):
        ended.result(TIMEOUT_S)
    opening = execute(worker, RestoreSession(session_id="d", snapshot=snapshot, contexts=CONTEXTS))
    frames = [
        execute(worker, step).result(TIMEOUT_S)[0]
        for step in (StepSession(session_id="d", actions=WALK[1]), RECACHED)
    ]
    exact = execute(
        worker, RestoreSession(session_id="x", snapshot=snapshot, contexts=CONTEXTS, exact=True)
    )
    exact_frames, going_on = (walk_ahead(worker, name, WALK[1:2])[0] for name in "xa")
    return SimpleNamespace(
        snapshot=snapshot,
        refusals=refusals,
        frames=[opening.last_frame, *frames],
        exact=[exact.last_frame, exact_frames],
        expected=going_on,
    )


def run_together(group):
    worker = Worker(make_engine(group=group, camera_cache_bytes=2**14))
    worker.engine.suspend_frees_memory = True  # though it is on a CPU
    results = lead(worker, walk_together)
    states = on_all_ranks({name: state_of(one) for name, one in worker._sessions.items()})
    return results, states


@pytest.fixture(scope="module")
def two():
    (frames, refusals, restored), states = spawn_ranks(2, run_together)
    return SimpleNamespace(frames=frames, refusals=refusals, restored=restored, states=states)


def test_two_ranks_show_one_ranks_frames(two, engine):
    a, b = engine.open(make_spec()), engine.open(make_spec(seed=2))
    for index, actions in enumerate(WALK):
        context = OTHER_CONTEXT if index == 3 else None
        alone = {"a": engine.step(a, actions, context=context), "b": engine.step(b, actions[::-1])}
        for name, frames in alone.items():
            ours = two.frames[name][index].astype(int)
            assert ours.shape == frames.shape and np.abs(ours - frames).max() <= 1


def test_two_ranks_restore_a_world_as_one_rank_does(two, engine):
    """The snapshot goes to all ranks. One with a bit of difference on a rank would part them."""
    restored = two.restored
    restoration = engine.begin_restore(restored.snapshot, CONTEXTS)
    while not (part := restoration.advance()).is_last:
        for latents in part.latents:
            last_frame = engine.decode(restoration.session, latents)[-1]
    session, options = restoration.session, {"prompt": "a toy", "recache": True}
    alone = [last_frame, engine.step(session, WALK[1])]
    alone.append(engine.step(session, WALK[0], context=CONTEXTS["a toy"], **options))
    for ours, expected in zip(restored.frames, alone, strict=True):
        assert ours.shape == expected.shape
        assert np.abs(ours.astype(int) - expected).max() <= 1
    assert [refusal[2] for refusal in restored.refusals] == ["contexts"]


def test_two_ranks_replay_a_world_bit_for_bit(two):
    last_frame, frames = two.restored.exact
    assert np.array_equal(last_frame, two.frames["a"][-1][-1])
    assert np.array_equal(frames, two.restored.expected)


def test_two_ranks_are_in_the_same_state_after_refusals_and_steps(two):
    leader, follower = two.states
    assert leader == follower
    assert {name: state[:3] for name, state in leader.items()} == {
        "a": (6, 18, False),
        "b": (5, 15, False),
        "d": (7, 12, False),  # of its kept chunks, and one
        "x": (6, 18, False),
    }


def test_two_ranks_raise_refusals_to_the_caller(two):
    closed = ("SessionClosed", "session {} is not open", None)
    assert two.refusals == [
        ("LingbotError", "num_steps must be 1..8, not 9", "num_steps"),
        (
            "LingbotError",
            "first_frame must be uint8 (32, 48, 3), not float32 (32, 48, 3)",
            "first_frame",
        ),
        (closed[0], closed[1].format("a"), None),
        ("LingbotError", "a step takes 3 actions, not 1", "actions"),
        ("LingbotError", "action 'x' must be distinct keys of 'wasdijkl'", "actions"),
        (closed[0], closed[1].format("c"), None),
    ]


# ---- two ranks with short times

SCENARIOS = ("idle", "follower fails", "leader fails")
COLLECTIVE_TIMEOUT_S, HEARTBEAT_S = 10.0, 1.0


def stay_idle(worker):
    execute(worker, OpenSession("a", make_spec()))
    time.sleep(1.5 * COLLECTIVE_TIMEOUT_S)
    return execute(worker, StepSession(session_id="a", actions=WALK[0])).result(TIMEOUT_S)[0].shape


def fail(*args, **kwargs):
    raise ZeroDivisionError


def run_until_failure(worker):
    """The name of the exception that `run` raised on this rank, and after how many seconds."""
    if worker.is_leader:
        worker.submit(OpenSession("a", make_spec()), deadline=0)
        worker.submit(StepSession(session_id="a", actions=WALK[0]), deadline=1)
    began = time.monotonic()
    try:
        worker.run()
    except Exception as exc:
        return type(exc).__name__, time.monotonic() - began


def run_scenario(rank, folder, scenario):
    torch.set_num_threads(1)
    store = FileStore(str(folder / scenario), 2)
    group = join(
        store,
        rank=rank,
        num_ranks=2,
        device=torch.device("cpu"),
        collective_timeout_s=COLLECTIVE_TIMEOUT_S,
    )
    engine = make_engine(group=group)
    if scenario == "follower fails" and rank == 1:
        engine.denoise = fail  # rank 0 waits for it in an all-to-all
    if scenario == "leader fails" and rank == 0:
        engine.open = fail  # rank 1 waits for the next command
    worker = Worker(engine, heartbeat_s=HEARTBEAT_S)
    outcome = lead(worker, stay_idle) if scenario == "idle" else run_until_failure(worker)
    # Stay connected, so that the other rank fails by its timeout.
    store.set(f"over {rank}", "")
    store.wait([f"over {other}" for other in (0, 1)], timedelta(seconds=TIMEOUT_S))
    dist.destroy_process_group()
    (folder / f"{scenario} {rank}.json").write_text(json.dumps(outcome))


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The outcome of each scenario, by rank. They run side by side, as they mostly wait."""
    folder = tmp_path_factory.mktemp("reports")
    options = {"nprocs": 2, "join": False, "start_method": "forkserver"}
    pairs = [start_processes(run_scenario, (folder, one), **options) for one in SCENARIOS]
    for pair in pairs:
        while not pair.join():
            pass
    return {
        one: [json.loads((folder / f"{one} {rank}.json").read_text()) for rank in (0, 1)]
        for one in SCENARIOS
    }


def test_an_idle_group_lives_longer_than_its_timeout(reports):
    assert reports["idle"][0] == [9, 32, 48, 3]


@pytest.mark.parametrize("scenario, failing", [("follower fails", 1), ("leader fails", 0)])
def test_an_unexpected_error_on_one_rank_ends_run_on_both(reports, scenario, failing):
    assert reports[scenario][failing][0] == "ZeroDivisionError"
    name, seconds = reports[scenario][1 - failing]
    assert name == "RuntimeError" and seconds < TIMEOUT_S
