"""Prompts of leased worlds, which ranks or a text encoder encode."""

import asyncio

import pytest
from msgspec.structs import replace
from ray.serve.exceptions import BackPressureError

from deployments.world_group import Lease
from tests.deployments.fakes import (
    IMAGE,
    SPEC,
    FakePrompts,
    FakeRank,
    chunk,
    run,
    start_opening,
)
from transport.wire.errors import Busy, WorldLost
from transport.wire.messages import Queued, Starting

SNOW = replace(SPEC, prompt="snow")


async def opened_with_prompt(world, group, spec=SNOW):
    opening = await start_opening(world, group, [], spec=spec)
    rank = FakeRank()
    group.streams[-1].items.put_nowait(Lease(session_id="a", rank=rank))
    session = await opening
    return session, rank


async def step_with(session, prompt):
    return await session.step(["w"], prompt=prompt, time_to_underrun_s=0)


def test_without_a_text_encoder_the_rank_gets_the_prompt_alone():
    async def scenario(world, group, messages):
        session, rank = await opened_with_prompt(world, group)
        await step_with(session, "rain")
        assert rank.calls[0] == ("a", 1, SNOW, IMAGE, None)
        assert rank.calls[1] == ("a", 1, ["w"], "rain", 0, None)
        session.close()

    run(scenario)


def test_a_rank_without_text_encoder_gets_contexts():
    async def scenario(world, group, messages):
        session, rank = await opened_with_prompt(world, group)
        assert (rank.calls[0][-1] == len("snow")).all()
        await step_with(session, None)
        assert rank.calls[1][-1] is None
        await session.encode("a storm")
        await step_with(session, None)  # it began before the prompt was applied
        assert rank.calls[2][-1] is None
        await step_with(session, "a storm")
        assert rank.calls[3][3] == "a storm" and (rank.calls[3][-1] == len("a storm")).all()
        session.close()

    run(scenario, prompts=FakePrompts)


def test_the_prompt_is_encoded_while_the_client_waits_for_its_lease():
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages, spec=SNOW)
        while not world._prompts.asked:
            await asyncio.sleep(0)
        assert group.streams[0].items.empty()
        group.streams[0].items.put_nowait(Lease(session_id="a", rank=FakeRank()))
        (await opening).close()
        assert world._prompts.asked == ["snow"]

    run(scenario, prompts=FakePrompts)


def test_a_client_whose_prompt_takes_long_hears_that_the_world_is_warming_up():
    async def scenario(world, group, messages):
        world._prompts.gate.clear()
        opening = await start_opening(world, group, messages, spec=SNOW)
        rank = FakeRank()
        group.streams[0].items.put_nowait(Lease(session_id="a", rank=rank))
        while len(messages) < 3:
            await asyncio.sleep(0.01)
        assert set(messages) == {Starting()} and rank.calls == []
        world._prompts.gate.set()
        (await opening).close()
        assert len(rank.calls) == 1

    run(scenario, prompts=FakePrompts)


def test_a_prompt_of_too_many_tokens_is_a_warning():
    long = replace(SPEC, prompt="a walk in the snow")

    async def scenario(world, group, messages):
        session, _ = await opened_with_prompt(world, group, long)
        (warning,) = session.take_notices()
        assert (warning.code, warning.field) == ("prompt_truncated", "prompt")
        assert warning.content == "the prompt is too long: its last 8 tokens have no effect"
        await session.encode("a walk in the rain")
        assert [one.code for one in session.take_notices()] == ["prompt_truncated"]
        await session.encode("rain")
        assert session.take_notices() == []
        session.close()

    run(scenario, prompts=FakePrompts)


@pytest.mark.parametrize("error", [WorldLost("it died"), Busy("it is warming up")])
def test_a_prompt_that_cannot_be_encoded_opens_no_world_and_leaves_no_lease(error):
    async def scenario(world, group, messages):
        world._prompts.error = error
        opening = await start_opening(world, group, [], spec=SNOW)
        rank = FakeRank()
        group.streams[0].items.put_nowait(Lease(session_id="a", rank=rank))
        with pytest.raises(type(error), match=str(error)):
            await opening
        assert group.streams[0].cancelled and rank.calls == []

    run(scenario, prompts=FakePrompts)


def test_a_prompt_that_cannot_be_encoded_later_leaves_the_session_as_it_was():
    async def scenario(world, group, messages):
        session, rank = await opened_with_prompt(world, group)
        world._prompts.error = WorldLost("it died")
        with pytest.raises(WorldLost, match="it died"):
            await session.encode("rain")
        assert (await (await step_with(session, None)) == chunk(0).frames).all()
        assert not group.streams[0].cancelled
        session.close()

    run(scenario, prompts=FakePrompts)


@pytest.mark.parametrize("has_lease", [False, True])
def test_a_client_that_leaves_leaves_no_encoding(has_lease):
    async def scenario(world, group, messages):
        world._prompts.gate.clear()
        opening = await start_opening(world, group, messages, spec=SNOW)
        if has_lease:
            group.streams[0].items.put_nowait(Lease(session_id="a", rank=FakeRank()))
        while Starting() not in messages and Queued(1, all_taken=True) not in messages:
            await asyncio.sleep(0.01)
        opening.cancel()
        await asyncio.wait([opening])
        await asyncio.sleep(0)
        assert world._prompts.cancelled == 1 and group.streams[0].cancelled

    run(scenario, prompts=FakePrompts)


def test_a_lease_that_fails_leaves_no_encoding():
    async def scenario(world, group, messages):
        world._prompts.gate.clear()
        opening = await start_opening(world, group, messages, spec=SNOW)
        while not world._prompts.asked:
            await asyncio.sleep(0)
        group.streams[0].items.put_nowait(BackPressureError(8, 8))
        with pytest.raises(Busy):
            await opening
        await asyncio.sleep(0)
        assert world._prompts.cancelled == 1

    run(scenario, prompts=FakePrompts)
