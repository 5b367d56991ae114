"""What the leases of a rank have its engine do."""

import asyncio
import time

import numpy as np
import pytest
from msgspec.structs import replace

from deployments.rank_replies import Opened
from deployments.refusal import Refusal, refusal_of
from deployments.sessions.lease_reply import Leased
from lingbot.errors import LingbotError
from lingbot.text.pocket import WORDS
from tests.deployments.one_rank import (
    HELD,
    IMAGE,
    all_of,
    collect,
    denoised,
    opened,
    reserved,
    run,
    spec,
    start,
    start_opening,
    start_step,
)
from tests.waiting import until
from transport.wire.messages import Queued


def test_a_step_reports_while_its_suspended_session_waits_for_memory():
    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        activate, freed = rank._sessions.activate, asyncio.Event()

        async def activate_later(session_id, epoch):
            await freed.wait()
            return await activate(session_id, epoch)

        rank._sessions.activate = activate_later
        replies = []
        stepping = asyncio.create_task(collect(rank.step("a", 1, ["w"], None, 0), replies))
        await until(lambda: len(replies) > 1)
        assert replies == [Queued(1)] * len(replies)
        freed.set()
        await stepping
        assert replies[-2] is None

    run(scenario, notice_period_s=0.01)


def test_a_session_lives_from_open_to_end():
    async def scenario(rank, engine):
        await opened(rank, "a", 5)
        first, chunk = await start_step(rank, "a")
        assert first is None and chunk.frames.flat[0] == 5 and chunk.latents.flat[0] == 1
        rank.end("a", 1)
        await HELD["a"].task
        assert [type(reply) for reply in HELD["a"].replies] == [Leased]
        rank.end("a", 1)
        await until(lambda: engine.live == [])
        assert await start_step(rank, "a") == []
        assert rank.ends() == {"closed": 1}

    run(scenario)


def test_a_prompt_that_is_cut_is_a_warning():
    long = " ".join(["forest lake meadow dawn"] * 3 + sorted(WORDS))

    async def scenario(rank, engine):
        await reserved(rank, "a")
        warning, done = await start(rank.open("a", 1, replace(spec(5), prompt=long), IMAGE))
        assert (warning.code, warning.field) == ("prompt_truncated", "prompt")
        assert done == Opened("origin of 5")
        assert f"its last {len(WORDS) - 16} words" in warning.content
        warning, denoised, _ = await start(rank.step("a", 1, ["w"], long, 0))
        assert (warning.code, denoised) == ("prompt_truncated", None)
        assert len(await start(rank.step("a", 1, ["w"], "a forest at dawn", 0))) == 2

    run(scenario)


def test_a_prompt_of_unknown_words_is_a_warning_that_names_known_ones():
    async def scenario(rank, engine):
        await reserved(rank, "a")
        castle = replace(spec(5), prompt="a castle")
        warning, done = await start(rank.open("a", 1, castle, IMAGE))
        assert (warning.code, done) == ("unknown_words", Opened("origin of 5"))
        warning, denoised, _ = await start(rank.step("a", 1, ["w"], "Schloss!", 0))
        assert denoised is None
        assert (warning.code, warning.field) == ("unknown_words", "prompt")
        assert "such as dawn, noon, dusk" in warning.content
        assert len(warning.content.split()) <= 25
        for prompt in ("", " ", "Schloss, snow"):
            assert len(await start(rank.step("a", 1, ["w"], prompt, 0))) == 2

    run(scenario)


def test_a_rank_whose_prompts_are_encoded_elsewhere_uses_the_given_contexts():
    first, second = (np.full((1, 4), value, np.float32) for value in (1, 2))

    async def scenario(rank, engine):
        await reserved(rank, "a")
        assert await start(rank.open("a", 1, spec(5), IMAGE, first)) == [Opened("origin of 5")]
        assert engine.context is first and rank._text_encoder is None
        for prompt, context in ((None, None), ("rain", second)):
            assert len(await start(rank.step("a", 1, ["w"], prompt, 0, context))) == 2
        assert engine.steps == [(None, None, False), (second, "rain", False)]

    run(scenario, preset="v2-14b")


def test_a_refusal_of_the_engine_is_returned():
    async def scenario(rank, engine):
        refusal = Refusal("thirteen is unlucky", "seed")
        assert await (await start_opening(rank, "a", 13)) == [refusal]
        rank.end("a", 1)
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


def test_ending_during_a_step_frees_after_it():
    async def scenario(rank, engine):
        await opened(rank, "a", 1)
        engine.gate.clear()
        step = start_step(rank, "a")
        await until(rank.busy_s)
        rank.end("a", 1)
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
        rank.end(ends, 1)
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
            (chunk,) = await all_of(rest)
            assert chunk.frames.flat[0] == 1

    run(scenario)


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
        await reserved(rank, "clip", realtime=False)
        assert await start(rank.open("clip", 1, spec(2), IMAGE)) == [Opened("origin of 2")]
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
                rank.end(f"left {number}", 1)
        else:
            rank.touch("w", 1)
            for number in range(20):
                rank._sessions.registry._records[f"left {number}"].touched -= 31
            rank._sessions.expire_idle(time.monotonic())
        assert len(rank._worker._scheduler) == 20  # closes, which take no time
        next_one = await start_opening(rank, "next", 2)
        engine.gate.set()
        assert (await next_one)[-1] == Opened("origin of 2")
        assert engine.opened == [1, 2]
        for opening in openings:
            assert not any(isinstance(reply, Opened) for reply in await opening)
        await step

    run(scenario)


def test_a_client_that_leaves_before_its_open_is_queued_leaves_nothing():
    """Its prompt is still being encoded."""

    async def scenario(rank, engine):
        opening = await start_opening(rank, "a", 1)
        await asyncio.sleep(0)
        rank.end("a", 1)
        assert await opening == []
        assert engine.opened == [] and rank._worker._sessions == {}

    run(scenario)


def test_a_client_that_leaves_while_its_world_is_opened_leaves_nothing():
    async def scenario(rank, engine):
        engine.gate.clear()
        opening = await start_opening(rank, "a", 1)
        await until(rank.busy_s)
        rank.end("a", 1)
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
        first = asyncio.create_task(collect(rank.open("a", 1, spec(1), IMAGE), replies))
        await until(rank.busy_s)
        replies.clear()  # it may have been queued until now
        second = await start_opening(rank, "b", 2)
        third = await start_opening(rank, "c", 3)
        await until(lambda: rank._worker.position("c") == 2)
        await asyncio.sleep(0.05)
        rank.end("b", 1)
        await asyncio.sleep(0.05)
        engine.gate.set()
        *positions, last = await third
        assert set(positions) == {Queued(2), Queued(1)} and last == Opened("origin of 3")
        assert sorted(positions, key=lambda one: -one.position) == positions
        await first
        assert replies == [Opened("origin of 1")]  # its open was running, not queued
        assert set(await second) == {Queued(1)}

    run(scenario, notice_period_s=0.01)
