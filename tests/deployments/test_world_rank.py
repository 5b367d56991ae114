"""The actor's class, run in this process on a ten-line engine."""

import asyncio
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from deployments.config import ServiceConfig
from deployments.world_rank import RankAssignment, Refusal, SessionEnded, WorldRank, refusal_of
from lingbot.errors import LingbotError
from lingbot.parallel.ulysses import SINGLE
from lingbot.runtime.commands import Stop
from transport.wire.world import WorldSpec


class FakeEngine:
    """A session is its seed, and its frames are filled with it."""

    group = SINGLE
    config = SimpleNamespace(width=1, height=1, window=1, chunk=1, chunk_frames=4, fps=16)

    def __init__(self):
        self.live, self.order, self.broken = [], [], None
        self.gate, self.decode_gate = threading.Event(), threading.Event()
        self.gate.set()
        self.decode_gate.set()

    def open(self, spec):
        if spec.seed == 13:
            raise LingbotError("thirteen is unlucky", field="seed")
        self.live.append(spec.seed)
        return spec.seed

    def denoise(self, session, actions, *, context):
        self.gate.wait(5)
        self.order.append(session)
        if self.broken:
            raise self.broken
        return session

    def decode(self, session, latents):
        self.decode_gate.wait(5)
        return np.full((1, 1, 1, 3), latents, np.uint8)

    def close(self, session):
        self.live.remove(session)


def spec(seed):
    return WorldSpec(prompt="", seed=seed, width=1, height=1)


IMAGE = np.zeros((1, 1, 3), np.uint8)


def run(scenario, **config):
    """Run `scenario(rank, engine)` on a started rank."""

    async def run_in_loop():
        engine = FakeEngine()
        rank = WorldRank(ServiceConfig(**config), load=lambda group: engine)
        await rank.start(RankAssignment())
        await rank.start_loop()
        assert engine.order and not engine.live  # it has been warmed up
        engine.order.clear()
        await asyncio.wait_for(scenario(rank, engine), 10)
        engine.gate.set()
        await rank._execute(Stop())

    asyncio.run(run_in_loop())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


async def opened(rank, session_id, seed):
    rank.reserve(session_id)
    assert await rank.open(session_id, spec(seed), IMAGE) is None


def test_a_session_lives_from_open_to_end():
    async def scenario(rank, engine):
        await opened(rank, "a", 5)
        await rank.step("a", ["w"], None, 0)
        assert (await rank.fetch_frames("a")).flat[0] == 5
        waiting = asyncio.create_task(rank.wait_for_end("a"))
        rank.end("a", "enough")
        await waiting
        rank.end("a", "again")
        await until(lambda: engine.live == [])
        for call in (rank.step("a", ["w"], None, 0), rank.fetch_frames("a")):
            with pytest.raises(SessionEnded):
                await call
        await rank.wait_for_end("a")

    run(scenario)


def test_a_refusal_of_the_engine_is_returned():
    async def scenario(rank, engine):
        rank.reserve("a")
        assert await rank.open("a", spec(13), IMAGE) == Refusal("thirteen is unlucky", "seed")

    run(scenario)


@pytest.mark.parametrize(
    "field, wire_field",
    [
        ("first_frame", "size"),
        ("num_steps", "num_inference_steps"),
        ("window", "realtime_causal_kv_cache_num_frames"),
        ("sink", "realtime_causal_sink_size"),
        ("prompt", "prompt"),
        (None, None),
    ],
)
def test_a_refusal_names_the_wires_field(field, wire_field):
    assert refusal_of(LingbotError("no", field=field)) == Refusal("no", wire_field)


def test_an_idle_session_is_freed():
    async def scenario(rank, engine):
        for seed, session_id in ((1, "forgotten"), (2, "kept")):
            await opened(rank, session_id, seed)
        later = time.monotonic() + 31
        rank._sessions.touch("kept", later - 29)
        rank.expire_idle(later)
        await until(lambda: engine.live == [2])
        rank.touch("forgotten")  # too late, and harmless

    run(scenario, lease_ttl_s=30)


def test_ending_during_a_step_frees_after_it():
    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        engine.gate.clear()
        step = asyncio.create_task(rank.step("a", ["w"], None, 0))
        fetch = asyncio.create_task(rank.fetch_frames("a"))
        await until(rank.busy_s)
        rank.end("a", "left")
        with pytest.raises(SessionEnded):  # at once, not after the step
            await fetch
        assert engine.live == [1]
        engine.gate.set()
        await step
        await until(lambda: engine.live == [])

    run(scenario)


def test_frames_may_be_fetched_before_their_step():
    async def scenario(rank, engine):
        await opened(rank, "a", 7)
        fetch = asyncio.create_task(rank.fetch_frames("a"))
        await asyncio.sleep(0)
        await rank.step("a", ["w"], None, 0)
        assert (await fetch).flat[0] == 7

    run(scenario)


def test_the_next_chunk_is_denoised_before_the_last_one_is_decoded():
    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        engine.decode_gate.clear()
        for _ in range(2):
            await rank.step("a", ["w"], None, 0)
        assert engine.order == [1, 1]
        engine.decode_gate.set()
        for _ in range(2):
            assert (await rank.fetch_frames("a")).flat[0] == 1

    run(scenario)


def test_the_session_with_the_earliest_deadline_steps_first():
    async def scenario(rank, engine):
        for seed, session_id in ((1, "a"), (2, "b"), (3, "c")):
            await opened(rank, session_id, seed)
        engine.gate.clear()
        running = asyncio.create_task(rank.step("a", ["w"], None, 0))
        await until(rank.busy_s)
        waiting = [
            asyncio.create_task(rank.step(session_id, ["w"], None, time_to_underrun_s))
            for session_id, time_to_underrun_s in (("b", 0.9), ("c", 0.1))
        ]
        await asyncio.sleep(0.01)
        engine.gate.set()
        await asyncio.gather(running, *waiting)
        assert engine.order == [1, 3, 2]

    run(scenario)


def test_a_step_that_raises_fails_both_calls_that_wait_for_it():
    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        await opened(rank, "b", 2)
        engine.broken = ZeroDivisionError("oh")
        fetch = asyncio.create_task(rank.fetch_frames("a"))
        for call in (rank.step("a", ["w"], None, 0), fetch):
            with pytest.raises(ZeroDivisionError):
                await call
        engine.broken = None
        await rank.step("b", ["w"], None, 0)  # other sessions go on

    run(scenario)


def test_a_lease_that_ended_before_its_world_opened_leaves_nothing():
    async def scenario(rank, engine):
        rank.reserve("a")
        opening = asyncio.create_task(rank.open("a", spec(1), IMAGE))
        rank.end("a", "left at once")
        with pytest.raises(SessionEnded):
            await opening
        await until(lambda: engine.live == [])

    run(scenario)


def test_a_step_that_hangs_shows_in_busy_s():
    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        assert rank.busy_s() == 0
        engine.gate.clear()
        step = asyncio.create_task(rank.step("a", ["w"], None, 0))
        while rank.busy_s() < 0.05:
            await asyncio.sleep(0.01)
        engine.gate.set()
        await step
        assert rank.busy_s() == 0

    run(scenario)


def test_a_rank_whose_loop_fails_reports_the_reason_and_exits():
    statuses = []

    def fail():
        raise ZeroDivisionError("oh")

    async def scenario():
        rank = WorldRank(
            ServiceConfig(),
            load=lambda group: FakeEngine(),
            exit_grace_s=0,
            exit_process=statuses.append,
        )
        await rank.start(RankAssignment())
        rank._worker = SimpleNamespace(run=fail, is_leader=False)
        await rank.start_loop()
        with pytest.raises(RuntimeError, match="ZeroDivisionError: oh"):
            await rank.wait_failed()
        await until(lambda: statuses == [1])

    asyncio.run(asyncio.wait_for(scenario(), 10))
