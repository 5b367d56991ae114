"""The actor's class: its sessions as the group sees them, its limits and failures."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from deployments.config import ServiceConfig
from deployments.sessions.admission import NUM_MEASURED, GroupLimits
from deployments.sessions.lease_reply import Leased, Waiting
from deployments.world_rank import RankAssignment, WorldRank
from lingbot.config import Size
from tests.deployments.one_rank import (
    FakeEngine,
    FakeSession,
    LeaseCall,
    opened,
    reserved,
    run,
    start_step,
)
from tests.waiting import until


def test_a_rank_that_loads_has_no_sessions():
    assert WorldRank(ServiceConfig()).sessions() == []


def test_an_idle_session_is_freed():
    async def scenario(rank, engine):
        for seed, session_id in ((1, "forgotten"), (2, "kept")):
            await opened(rank, session_id, seed)
        later = time.monotonic() + 31
        rank._sessions.registry.touch("kept", later - 29)
        rank._sessions.expire_idle(later)
        await until(lambda: engine.live == [2])
        rank.touch("forgotten", 1)  # too late, and harmless

    run(scenario, lease_ttl_s=30)


def test_the_measured_speed_decides_who_is_admitted_and_a_pause_makes_room(monkeypatch):
    monkeypatch.setattr(FakeSession, "is_steady", True)

    async def scenario(rank, engine):
        admission = rank._sessions.admission
        assert (16, 16) in admission.shares()  # since the warm-up
        await opened(rank, "a", 1)
        for _ in range(NUM_MEASURED):
            rank._worker.on_chunk(Size(16, 16), 0.2, 0.1)  # of 0.25 s
        second = LeaseCall(rank, "b")
        await until(lambda: len(rank._sessions.line))
        rank.pause("a", 1)
        await until(lambda: rank._sessions.is_live("b"))
        assert {status.session_id: status.state for status in rank.sessions()} == {
            "a": "paused",
            "b": "opening",
        }
        assert len(await start_step(rank, "a")) == 2
        assert rank.sessions()[0].state == "active"
        await until(lambda: second.lease)
        rank.end("b", 1)
        await second.task
        assert [type(reply) for reply in second.replies] == [Waiting, Leased]

    run(scenario)


def test_a_session_of_more_steps_than_the_presets_takes_more_of_the_speed():
    async def scenario(rank, engine):
        for _ in range(NUM_MEASURED):
            rank._worker.on_chunk(Size(16, 16), 0.1, 0.1)  # of 0.25 s, for 4 steps
        await opened(rank, "a", 1)
        long = LeaseCall(rank, "long", num_steps=8)
        await until(lambda: len(rank._sessions.line))
        rank.leave("long")
        await long.task
        assert await reserved(rank, "b", num_steps=4)

    run(scenario)


def test_limits_may_change_while_sessions_run():
    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        LeaseCall(rank, "b")
        await until(lambda: len(rank._sessions.line))
        rank.set_limits(GroupLimits(max_sessions=2))
        await until(lambda: rank._sessions.is_live("b"))

    run(scenario, group=GroupLimits(max_sessions=1))


def test_a_step_that_hangs_shows_in_busy_s():
    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        assert rank.busy_s() == 0
        engine.gate.clear()
        step = start_step(rank, "a")
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
