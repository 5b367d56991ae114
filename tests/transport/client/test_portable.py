"""Programs that save, fork, rewind and reset their world."""

import asyncio
from contextlib import asynccontextmanager, contextmanager

import pytest

from transport.client import connect
from transport.wire.errors import TransportError


@contextmanager
def stepping(url, **init):
    """A client of a world that generates a chunk when it is asked for one."""

    @asynccontextmanager
    async def opened():
        async with connect(url, realtime_delivery="on_demand", **init) as client:

            async def step(keys):
                await client.send_actions([[*keys]] * 3)
                return await client.next_chunk()

            async for _ in client.wait():
                pass
            yield client, step

    yield opened


def test_a_saved_world_goes_on_elsewhere(url):
    async def scenario():
        with stepping(url) as opened:
            async with opened() as (client, step):
                await step("w")
                await step("a")
                data = await client.save()
        with stepping(url, snapshot=data) as opened:
            async with opened() as (client, step):
                return client, await step("d")

    client, chunk = asyncio.run(scenario())
    assert (client.session.world_chunk_index, chunk.index, chunk.world_index) == (2, 0, 2)
    assert client.last_frame.shape == (16, 32, 3) and abs(int(client.last_frame[0, 0, 0]) - 2) <= 1
    assert len(chunk.frames) == 12


def test_a_fork_is_opened_any_number_of_times(url):
    async def fork():
        with stepping(url) as opened:
            async with opened() as (client, step):
                await step("w")
                return await client.fork()

    async def open_fork(token):
        with stepping(url, fork=token) as opened:
            async with opened() as (_, step):
                return (await step("w")).world_index

    forked = asyncio.run(fork())
    assert forked.expires_in_s > 0 and forked.world_chunk_index == 1
    assert [asyncio.run(open_fork(forked.token)) for _ in range(2)] == [1, 1]
    with pytest.raises(TransportError) as gone:
        asyncio.run(open_fork("none"))
    assert gone.value.code == "session_gone"


def test_a_world_is_turned_back_and_reset(url, world):
    async def scenario():
        indices = []
        with stepping(url) as opened:
            async with opened() as (client, step):
                for keys in "wasd":
                    indices.append((await step(keys)).world_index)
                await client.rewind(chunk_index=1)
                indices.append((await step("w")).world_index)
                rewound = await client.rewind(seconds=0.1)
                indices.append((await step("w")).world_index)
                with pytest.raises(TransportError, match="expected 0 to 2") as refused:
                    await client.rewind(chunk_index=9)
                indices.append((await step("w")).world_index)
                reset = await client.reset(seed=5, prompt="rain")
                indices.append((await step("w")).world_index)
        return indices, rewound, refused.value, reset

    indices, rewound, refused, reset = asyncio.run(scenario())
    assert indices == [0, 1, 2, 3, 1, 1, 2, 0]
    assert (rewound.world_chunk_index, refused.field) == (1, "payload.chunk_index")
    assert (reset.world_chunk_index, reset.seed) == (0, 5)
    assert world.commands[-1][1:] == ("reset", 5, "rain")


def test_chunks_that_were_not_taken_are_dropped_by_a_rewind(url):
    async def scenario():
        async with connect(url, realtime_output_pacing=False) as client:
            async for chunk in client.chunks():
                if chunk.world_index == 4:
                    break
            await client.rewind(chunk_index=2)
            return (await client.next_chunk()).world_index

    assert asyncio.run(scenario()) == 2


def test_a_rewind_needs_one_target(url):
    async def scenario():
        async with connect(url) as client:
            for target in ({}, {"chunk_index": 1, "seconds": 1.0}):
                with pytest.raises(ValueError, match="either `chunk_index` or `seconds`"):
                    await client.rewind(**target)

    asyncio.run(scenario())


def test_what_is_asked_after_the_end_is_an_error(url):
    async def scenario():
        async with connect(url, max_chunks=1) as client:
            async for _ in client.chunks():
                pass
            with pytest.raises(TransportError, match="the session has ended"):
                await client.save()

    asyncio.run(scenario())
