"""Worlds that are saved, forked, turned back and reset."""

import asyncio

import pytest

from deployments.saved_world import INIT_BYTES
from lingbot.runtime.snapshot import decode_snapshot
from tests.deployments.fakes import (
    HANGS,
    ORIGIN,
    FakePrompts,
    run,
)
from tests.deployments.walking import die, grant, next_lease, opened, start_step, walk, walked
from tests.waiting import until
from transport.wire.errors import Busy, Refused
from transport.wire.limits import ClientLimits


def test_a_saved_world_holds_all_chunks_also_those_on_their_way():
    async def scenario(world, group, messages):
        session, rank = await walked(world, group, 2)
        rank.decode.clear()
        await start_step(session)
        saving = asyncio.create_task(session.save())
        await asyncio.sleep(0.01)
        assert not saving.done()
        rank.decode.set()
        snapshot = decode_snapshot(await saving, max_bytes=2**20)
        assert snapshot.next_chunk == 3 and snapshot.prompt == "snow"
        session.close()

    run(scenario)


def test_a_world_that_no_init_could_bring_back_is_not_saved_and_may_be_forked():
    async def scenario(world, group, messages):
        session, rank = await walked(world, group, 2)
        data = await session.save()
        world.limits = ClientLimits(max_init_bytes=INIT_BYTES + len(data))  # live ones
        assert await session.save() == data
        world.limits = ClientLimits(max_init_bytes=INIT_BYTES + len(data) - 1)
        with pytest.raises(Refused, match=f"{len(data)} bytes.*max_init_bytes") as refused:
            await session.save()
        assert refused.value.close_code is None
        await session.fork()
        await walk(session, 2)
        session.close()

    run(scenario)


def test_a_world_is_turned_back_where_it_is():
    async def scenario(world, group, messages):
        session, rank = await walked(world, group, 4)
        await session.rewind(2)
        assert session.chunk_index == 2 and rank.restored[0].next_chunk == 2
        await walk(session, 2)
        with pytest.raises(Refused) as refused:
            await session.rewind(9)
        assert refused.value.field == "chunk_index" and session.chunk_index == 3
        await session.rewind(3)  # there is nothing to turn back
        assert len(rank.restored) == 1 and len(group.streams) == 1
        session.close()

    run(scenario)


def test_a_group_that_dies_while_the_world_is_turned_back_leaves_it_turned_back():
    async def scenario(world, group, messages):
        session, rank = await walked(world, group, 4)
        rank.replies = (HANGS,)
        rewinding = asyncio.create_task(session.rewind(1))
        await until(lambda: rank.restored)
        die(group, rank)
        await next_lease(group, 1)
        second = grant(group, "b")
        await rewinding
        assert second.restored[0].next_chunk == 1 and session.chunk_index == 1
        session.close()

    run(scenario)


def test_a_world_begins_anew_from_its_first_image():
    async def scenario(world, group, messages):
        session, rank = await walked(world, group, 3)
        await session.reset(seed=7, prompt=None)
        (first,) = rank.restored
        assert (first.next_chunk, first.chunks, first.prompt) == (0, (), "snow")
        assert first.origin.seed == 7 and first.origin.condition is ORIGIN.condition
        await walk(session, 0)
        await session.reset(seed=None, prompt="rain")
        assert rank.restored[1].origin.seed == 7 and rank.restored[1].prompt == "rain"
        session.close()

    run(scenario)


def test_a_reset_whose_prompt_cannot_be_encoded_leaves_the_world_as_it_was():
    async def scenario(world, group, messages):
        session, rank = await walked(world, group, 2)
        world._prompts.error = Busy("it is warming up")
        with pytest.raises(Refused, match="the world stays as it was: it is warming up"):
            await session.reset(seed=None, prompt="rain")
        assert session.chunk_index == 2 and rank.restored == []
        await walk(session, 2)
        session.close()

    run(scenario, prompts=FakePrompts)


def test_prompts_in_the_window_are_not_encoded_again():
    async def scenario(world, group, messages):
        session, rank = await walked(world, group, 1)
        for prompt in ("rain", "fog"):
            await session.encode(prompt)
            await (await start_step(session, prompt=prompt))
        asked = list(world._prompts.asked)
        await session.rewind(2)
        assert world._prompts.asked == asked
        session.close()

    run(scenario, prompts=FakePrompts)


def test_a_fork_is_kept_for_a_time():
    async def scenario(world, group, messages):
        session, rank = await walked(world, group, 3)
        token, seconds = await session.fork()
        assert seconds == 60
        saved = decode_snapshot(world.forks.worlds[token], max_bytes=2**20)
        assert saved.next_chunk == 3
        session.close()

    run(scenario)


def test_a_restored_world_gets_the_contexts_of_all_its_prompts():
    async def scenario(world, group, messages):
        session, first = await opened(world, group)
        await walk(session, 0)
        await session.encode("a storm")
        await (await start_step(session, prompt="a storm"))
        die(group, first)
        await next_lease(group, 1)
        second = grant(group, "b")
        await walk(session, 2)
        contexts = second.calls[0][3]
        assert {prompt: int(one[0, 0]) for prompt, one in contexts.items()} == {
            "snow": 4,
            "a storm": 7,
        }
        session.close()

    run(scenario, prompts=FakePrompts)
