"""The actor's class, run in this process on a ten-line engine."""

import asyncio
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec.structs import replace

from deployments.config import ServiceConfig
from deployments.refusal import Refusal, refusal_of
from deployments.sessions.admission import NUM_MEASURED, Demand, GroupLimits
from deployments.sessions.lease_reply import Waiting
from deployments.world_rank import RankAssignment, WorldRank
from lingbot.config import Size
from lingbot.errors import LingbotError
from lingbot.parallel.ulysses import SINGLE
from lingbot.runtime.commands import Stop
from lingbot.text.pocket import WORDS
from transport.wire.messages import Queued
from transport.wire.world import WorldSpec


class FakeSession(int):
    is_steady, size = False, Size(16, 16)  # of unknown speed


class FakeEngine:
    """A session is its seed, and its frames are filled with it."""

    group, memory, suspend_frees_memory = SINGLE, None, False
    config = SimpleNamespace(sizes=(Size(16, 16),), window=1, chunk=1, chunk_frames=4, fps=16)

    def __init__(self):
        self.opened, self.live, self.order, self.broken = [], [], [], None
        self.contexts = []  # of the steps
        self.gate, self.decode_gate = threading.Event(), threading.Event()
        self.gate.set()
        self.decode_gate.set()

    def open(self, spec):
        self.gate.wait(5)
        self.opened.append(spec.seed)
        self.context = spec.context
        if spec.seed == 13:
            raise LingbotError("thirteen is unlucky", field="seed")
        self.live.append(spec.seed)
        return FakeSession(spec.seed)

    def denoise(self, session, actions, *, context):
        self.contexts.append(context)
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


def run(scenario, *, notice_period_s=60, **config):
    """Run `scenario(rank, engine)` on a started rank.

    Any open may be queued for a moment, on a busy machine for longer than a short period.
    """

    async def run_in_loop():
        engine = FakeEngine()
        rank = WorldRank(
            ServiceConfig(**config), load=lambda group: engine, notice_period_s=notice_period_s
        )
        await rank.start(RankAssignment())
        await rank.start_loop()
        assert engine.order and not engine.live  # it has been warmed up
        engine.order.clear()
        engine.opened.clear()
        await asyncio.wait_for(scenario(rank, engine), 10)
        engine.gate.set()
        engine.decode_gate.set()
        await rank._submit(Stop())

    asyncio.run(run_in_loop())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


async def collect(replies, collected):
    async for reply in replies:
        collected.append(reply)


async def all_of(replies):
    return [reply async for reply in replies]


def start(replies):
    """A task that reads all replies of a call, as Ray does."""
    return asyncio.create_task(all_of(replies))


def reserve(rank, session_id, **demand):
    """A lease call. It is held until the session ends."""
    demand = Demand(width=16, height=16, **demand)
    call = asyncio.create_task(all_of(rank.lease(session_id, demand)))
    HELD.append(call)
    return call


HELD = []  # asyncio keeps no reference to a task


async def reserved(rank, session_id):
    reserve(rank, session_id)
    await until(lambda: rank._sessions.is_live(session_id))


async def start_opening(rank, session_id, seed):
    await reserved(rank, session_id)
    return start(rank.open(session_id, spec(seed), IMAGE))


async def opened(rank, session_id, seed):
    assert await (await start_opening(rank, session_id, seed)) == [None]


def start_step(rank, session_id, *, time_to_underrun_s=0.0):
    return start(rank.step(session_id, ["w"], None, time_to_underrun_s))


async def denoised(rank, session_id):
    """The replies of a step, after its first one."""
    replies = rank.step(session_id, ["w"], None, 0)
    assert await anext(replies) is None
    return replies


def test_a_rank_that_loads_has_no_sessions():
    assert WorldRank(ServiceConfig()).sessions() == []


def test_a_step_reports_while_its_suspended_session_waits_for_memory():
    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        activate, freed = rank._sessions.activate, asyncio.Event()

        async def activate_later(session_id):
            await freed.wait()
            return await activate(session_id)

        rank._sessions.activate = activate_later
        replies = []
        stepping = asyncio.create_task(collect(rank.step("a", ["w"], None, 0), replies))
        await until(lambda: len(replies) > 1)
        assert replies == [Queued(1)] * len(replies)
        freed.set()
        await stepping
        assert replies[-2] is None

    run(scenario, notice_period_s=0.01)


def test_a_session_lives_from_open_to_end():
    async def scenario(rank, engine):
        await opened(rank, "a", 5)
        first, frames = await start_step(rank, "a")
        assert first is None and frames.flat[0] == 5
        rank.end("a")
        assert await HELD.pop() == [None]
        rank.end("a")
        await until(lambda: engine.live == [])
        assert await start_step(rank, "a") == []
        assert rank.ends() == {"closed": 1}

    run(scenario)


def test_a_prompt_that_is_cut_is_a_warning():
    long = " ".join(["forest lake meadow dawn"] * 3 + sorted(WORDS))

    async def scenario(rank, engine):
        await reserved(rank, "a")
        warning, done = await start(rank.open("a", replace(spec(5), prompt=long), IMAGE))
        assert (warning.code, warning.field, done) == ("prompt_truncated", "prompt", None)
        assert f"its last {len(WORDS) - 16} words" in warning.content
        warning, denoised, _ = await start(rank.step("a", ["w"], long, 0))
        assert (warning.code, denoised) == ("prompt_truncated", None)
        assert len(await start(rank.step("a", ["w"], "a forest at dawn", 0))) == 2

    run(scenario)


def test_a_rank_whose_prompts_are_encoded_elsewhere_uses_the_given_contexts():
    first, second = (np.full((1, 4), value, np.float32) for value in (1, 2))

    async def scenario(rank, engine):
        await reserved(rank, "a")
        assert await start(rank.open("a", spec(5), IMAGE, first)) == [None]
        assert engine.context is first and rank._text_encoder is None
        engine.contexts.clear()
        for prompt, context in ((None, None), ("rain", second)):
            assert len(await start(rank.step("a", ["w"], prompt, 0, context))) == 2
        assert engine.contexts == [None, second]

    run(scenario, preset="v2-14b")


def test_a_refusal_of_the_engine_is_returned():
    async def scenario(rank, engine):
        refusal = Refusal("thirteen is unlucky", "seed")
        assert await (await start_opening(rank, "a", 13)) == [refusal]
        rank.end("a")
        assert rank.ends() == {"refused": 1}

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
        rank._sessions.registry.touch("kept", later - 29)
        rank._sessions.expire_idle(later)
        await until(lambda: engine.live == [2])
        rank.touch("forgotten")  # too late, and harmless

    run(scenario, lease_ttl_s=30)


def test_ending_during_a_step_frees_after_it():
    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        engine.gate.clear()
        step = start_step(rank, "a")
        await until(rank.busy_s)
        rank.end("a")
        await asyncio.sleep(0.01)
        assert engine.live == [1]
        engine.gate.set()
        assert await step == [None]
        await until(lambda: engine.live == [])

    run(scenario)


@pytest.mark.parametrize("ends", ["a", "b"])
def test_the_frames_of_a_session_that_ended_are_not_sent(ends):
    """One session's chunk is being decoded, and the other's waits for that."""

    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        await opened(rank, "b", 2)
        engine.decode_gate.clear()
        rests = {name: await denoised(rank, name) for name in "ab"}
        rank.end(ends)
        await until(lambda: len(engine.live) == 1)
        engine.decode_gate.set()
        frames = {name: await all_of(rest) for name, rest in rests.items()}
        assert [name for name, replies in frames.items() if not replies] == [ends]

    run(scenario)


def test_the_next_chunk_is_denoised_before_the_last_one_is_decoded():
    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        engine.decode_gate.clear()
        rests = [await denoised(rank, "a") for _ in range(2)]
        assert engine.order == [1, 1]
        engine.decode_gate.set()
        for rest in rests:
            (frames,) = await all_of(rest)
            assert frames.flat[0] == 1

    run(scenario)


def test_the_measured_speed_decides_who_is_admitted_and_a_pause_makes_room(monkeypatch):
    monkeypatch.setattr(FakeSession, "is_steady", True)

    async def scenario(rank, engine):
        admission = rank._sessions.admission
        assert (16, 16) in admission.shares()  # since the warm-up
        await opened(rank, "a", 1)
        for _ in range(NUM_MEASURED):
            rank._worker.on_chunk(Size(16, 16), 0.2)  # of 0.25 s
        second = reserve(rank, "b")
        await until(lambda: len(rank._sessions.line))
        rank.pause("a")
        await until(lambda: rank._sessions.is_live("b"))
        assert {status.session_id: status.state for status in rank.sessions()} == {
            "a": "paused",
            "b": "opening",
        }
        assert len(await start_step(rank, "a")) == 2
        assert rank.sessions()[0].state == "active"
        rank.end("b")
        assert [type(reply) for reply in await second] == [Waiting, type(None)]

    run(scenario)


def test_limits_may_change_while_sessions_run():
    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        reserve(rank, "b")
        await until(lambda: len(rank._sessions.line))
        rank.set_limits(GroupLimits(max_sessions=2))
        await until(lambda: rank._sessions.is_live("b"))

    run(scenario, group=GroupLimits(max_sessions=1))


def test_the_session_with_the_earliest_deadline_steps_first():
    async def scenario(rank, engine):
        for seed, session_id in ((1, "a"), (2, "b"), (3, "c")):
            await opened(rank, session_id, seed)
        engine.gate.clear()
        running = start_step(rank, "a")
        await until(rank.busy_s)
        waiting = [
            start_step(rank, session_id, time_to_underrun_s=time_to_underrun_s)
            for session_id, time_to_underrun_s in (("b", 0.9), ("c", 0.1))
        ]
        await asyncio.sleep(0.01)
        engine.gate.set()
        await asyncio.gather(running, *waiting)
        assert engine.order == [1, 3, 2]

    run(scenario)


def test_a_clips_step_lets_live_ones_go_first():
    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        reserve(rank, "clip", realtime=False)
        await until(lambda: rank._sessions.is_live("clip"))
        assert await start(rank.open("clip", spec(2), IMAGE)) == [None]
        engine.gate.clear()
        running = start_step(rank, "a")
        await until(rank.busy_s)
        waiting = [start_step(rank, "clip"), start_step(rank, "a", time_to_underrun_s=0.1)]
        await until(lambda: len(rank._worker._scheduler) == 2)
        engine.gate.set()
        await asyncio.gather(running, *waiting)
        assert engine.order == [1, 1, 2]

    run(scenario)


def test_a_step_that_raises_fails_its_call_only():
    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        await opened(rank, "b", 2)
        engine.broken = ZeroDivisionError("oh")
        with pytest.raises(ZeroDivisionError):
            await start_step(rank, "a")
        engine.broken = LingbotError("no")
        with pytest.raises(LingbotError):
            await start_step(rank, "a")
        engine.broken = None
        assert len(await start_step(rank, "b")) == 2

    run(scenario)


@pytest.mark.parametrize("end", ["end", "expire"])
def test_opens_of_clients_that_left_are_never_executed(end):
    """One step holds the engine; twenty clients come and leave. The next one is first in line."""

    async def scenario(rank, engine):
        await opened(rank, "w", 1)
        engine.gate.clear()
        step = start_step(rank, "w")
        await until(rank.busy_s)
        openings = [
            await start_opening(rank, f"left {number}", 100 + number) for number in range(20)
        ]
        await until(lambda: len(rank._worker._scheduler) == 20)
        if end == "end":
            for number in range(20):
                rank.end(f"left {number}")
        else:
            rank.touch("w")
            for number in range(20):
                rank._sessions.registry._records[f"left {number}"].touched -= 31
            rank._sessions.expire_idle(time.monotonic())
        assert len(rank._worker._scheduler) == 20  # closes, which take no time
        next_one = await start_opening(rank, "next", 2)
        engine.gate.set()
        assert (await next_one)[-1] is None
        assert engine.opened == [1, 2]
        for opening in openings:
            assert None not in await opening
        await step

    run(scenario)


def test_a_client_that_leaves_before_its_open_is_queued_leaves_nothing():
    """Its prompt is still being encoded."""

    async def scenario(rank, engine):
        opening = await start_opening(rank, "a", 1)
        await asyncio.sleep(0)
        rank.end("a")
        assert await opening == []
        assert engine.opened == [] and rank._worker._sessions == {}

    run(scenario)


def test_a_client_that_leaves_while_its_world_is_opened_leaves_nothing():
    async def scenario(rank, engine):
        engine.gate.clear()
        opening = await start_opening(rank, "a", 1)
        await until(rank.busy_s)
        rank.end("a")
        engine.gate.set()
        assert await opening == []
        await until(lambda: rank._worker._sessions == {})
        assert engine.opened == [1] and engine.live == []

    run(scenario)


def test_a_client_that_waits_for_its_open_gets_its_position():
    async def scenario(rank, engine):
        engine.gate.clear()
        await reserved(rank, "a")
        replies = []
        first = asyncio.create_task(collect(rank.open("a", spec(1), IMAGE), replies))
        await until(rank.busy_s)
        replies.clear()  # it may have been queued until now
        second = await start_opening(rank, "b", 2)
        third = await start_opening(rank, "c", 3)
        await until(lambda: rank._worker.position("c") == 2)
        await asyncio.sleep(0.05)
        rank.end("b")
        await asyncio.sleep(0.05)
        engine.gate.set()
        *positions, last = await third
        assert set(positions) == {Queued(2), Queued(1)} and last is None
        assert sorted(positions, key=lambda one: -one.position) == positions
        await first
        assert replies == [None]  # its open was running, not queued
        assert set(await second) == {Queued(1)}

    run(scenario, notice_period_s=0.01)


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
