"""The actor's class, run in this process on a ten-line engine."""

import asyncio
import threading
import time

import numpy as np
import pytest

from deployments.config import ServiceConfig
from deployments.world_rank import Refusal, SessionEnded, WorldRank
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


def test_a_session_lives_from_open_to_end():
    async def scenario(rank, engine):
        assert engine.warm
        rank.reserve("a")
        assert await rank.open("a", spec(5)) is None
        assert (await rank.step("a", ["w"], None)).flat[0] == 5
        waiting = asyncio.create_task(rank.wait_for_end("a"))
        rank.end("a", "enough")
        await waiting
        rank.end("a", "again")
        await rank._run(lambda: None)  # the engine's thread has caught up
        assert engine.live == []
        with pytest.raises(SessionEnded):
            await rank.step("a", ["w"], None)
        await rank.wait_for_end("a")

    play(scenario)


def test_what_the_engine_refuses_is_told():
    async def scenario(rank, engine):
        rank.reserve("a")
        assert await rank.open("a", spec(13)) == Refusal("thirteen is unlucky", "seed")

    play(scenario)


def test_a_session_nobody_asks_about_is_freed():
    async def scenario(rank, engine):
        for seed, session_id in ((1, "forgotten"), (2, "kept")):
            rank.reserve(session_id)
            await rank.open(session_id, spec(seed))
        later = time.monotonic() + 31
        rank._tenancies["kept"].touched = later - 29
        rank.reap(later)
        await rank._run(lambda: None)
        assert engine.live == [2]
        rank.touch("forgotten")  # too late, and harmless

    play(scenario, lease_ttl_s=30)


def test_ending_during_a_step_frees_after_it():
    async def scenario(rank, engine):
        rank.reserve("a")
        await rank.open("a", spec(1))
        engine.gate.clear()
        step = asyncio.create_task(rank.step("a", ["w"], None))
        while not rank.busy_s():
            await asyncio.sleep(0.001)
        rank.end("a", "left")
        assert engine.live == [1]
        engine.gate.set()
        await step
        await rank._run(lambda: None)
        assert engine.live == []

    play(scenario)


def test_a_lease_that_ended_before_its_world_opened_leaves_nothing():
    async def scenario(rank, engine):
        rank.reserve("a")
        opening = asyncio.create_task(rank.open("a", spec(1)))
        rank.end("a", "left at once")
        with pytest.raises(SessionEnded):
            await opening
        assert engine.live == []

    play(scenario)


def test_a_step_that_hangs_shows():
    async def scenario(rank, engine):
        rank.reserve("a")
        await rank.open("a", spec(1))
        assert rank.busy_s() == 0
        engine.gate.clear()
        step = asyncio.create_task(rank.step("a", ["w"], None))
        while rank.busy_s() < 0.05:
            await asyncio.sleep(0.01)
        engine.gate.set()
        await step
        assert rank.busy_s() == 0

    play(scenario)
