"""The actor's class, run in this process on a ten-line engine."""

import asyncio
import threading

import numpy as np
import pytest

from deployments.config import ServiceConfig
from deployments.world_rank import Refusal, WorldRank
from lingbot.errors import LingbotError
from transport.world import WorldSpec


class FakeEngine:
    def __init__(self):
        self.warm, self.live, self.gate = False, [], threading.Event()
        self.gate.set()

    def warm_up(self):
        self.warm = True

    def open(self, spec):
        if spec.seed == 13:
            raise LingbotError("thirteen is unlucky", field="seed")
        self.live.append(spec.seed)
        return spec.seed

    def step(self, session, actions, *, prompt):
        self.gate.wait(5)
        return np.full((1, 1, 1, 3), session, np.uint8)

    def close(self, session):
        self.live.remove(session)


def spec(seed):
    return WorldSpec("", seed, 1, 1, np.zeros((1, 1, 3), np.uint8), None, None, None)


def play(scenario, **config):
    """Run ``scenario(rank, engine)`` on a started rank."""

    async def run():
        engine = FakeEngine()
        rank = WorldRank(ServiceConfig(**config), load=lambda: engine)
        await rank.start()
        await scenario(rank, engine)

    asyncio.run(run())


async def reserve(rank, session_id):
    held = asyncio.create_task(rank.hold(session_id))
    await asyncio.sleep(0)
    return held


def test_a_session_lives_from_open_to_end():
    async def scenario(rank, engine):
        assert engine.warm
        held = await reserve(rank, "a")
        assert await rank.open("a", spec(5)) is None
        assert (await rank.step("a", ["w"], None)).flat[0] == 5
        rank.end("a", "enough")
        assert await held == "enough"
        rank.end("a", "again")
        await rank._run(lambda: None)  # the engine's thread has caught up
        assert engine.live == [] and rank.num_sessions() == 0
        with pytest.raises(KeyError):
            await rank.step("a", ["w"], None)

    play(scenario)


def test_what_the_engine_refuses_is_told():
    async def scenario(rank, engine):
        await reserve(rank, "a")
        assert await rank.open("a", spec(13)) == Refusal("thirteen is unlucky", "seed")

    play(scenario)


def test_a_session_nobody_asks_about_is_freed():
    async def scenario(rank, engine):
        held = await reserve(rank, "forgotten")
        kept = await reserve(rank, "kept")
        await rank.open("forgotten", spec(1))
        await rank.open("kept", spec(2))
        for _ in range(20):
            await asyncio.sleep(0.02)
            rank.touch("kept")
        assert "nobody asked" in await held
        assert not kept.done() and engine.live == [2]
        rank.end("kept", "done")

    play(scenario, lease_ttl_s=0.2)


def test_ending_during_a_step_frees_after_it():
    async def scenario(rank, engine):
        await reserve(rank, "a")
        await rank.open("a", spec(1))
        engine.gate.clear()
        step = asyncio.create_task(rank.step("a", ["w"], None))
        await asyncio.sleep(0.01)
        rank.end("a", "left")
        assert engine.live == [1]
        engine.gate.set()
        await step
        await rank._run(lambda: None)
        assert engine.live == []

    play(scenario)


def test_a_lease_that_ended_before_its_world_opened_leaves_nothing():
    async def scenario(rank, engine):
        await reserve(rank, "a")
        opening = asyncio.create_task(rank.open("a", spec(1)))
        rank.end("a", "left at once")
        with pytest.raises(KeyError):
            await opening
        assert engine.live == []

    play(scenario)
