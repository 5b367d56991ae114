import anyio

from transport.connection.chunk_slot import ChunkSlot, GeneratedChunk
from transport.wire.controls import ChunkControls


def chunk(index, num_frames=12, *, event_ids=(), has_new_keys=False):
    controls = ChunkControls(
        actions=[], event_ids=list(event_ids), prompt=None, has_new_keys=has_new_keys
    )
    return GeneratedChunk(
        index=index,
        frames=None,
        num_frames=num_frames,
        position=0,
        controls=controls,
        event_id=None,
        waited_s=0.0,
        prepared_s=0.0,
        denoising_s=0.0,
    )


def test_who_makes_chunks_waits_for_who_sends_them():
    async def scenario():
        outbox, put = ChunkSlot(), []

        async def make():
            for index in range(3):
                await outbox.put(chunk(index))
                put.append(index)
            outbox.close()

        taken = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(make)
            while await outbox.wait():
                await anyio.wait_all_tasks_blocked()
                assert put == taken, "a chunk was made for nobody"
                taken.append(outbox.take().index)
        return taken, put, outbox.num_dropped_frames

    assert anyio.run(scenario) == ([0, 1, 2], [0, 1, 2], 0)


def test_of_the_latest_a_newer_chunk_replaces_an_older_one():
    async def scenario():
        outbox = ChunkSlot(latest=True)
        for index, num_frames in ((0, 9), (1, 12), (2, 12)):
            await outbox.put(chunk(index, num_frames))
        outbox.close()
        assert await outbox.wait()
        return outbox.take().index, outbox.num_dropped_frames, await outbox.wait()

    assert anyio.run(scenario) == (2, 21, False)


def test_the_last_chunk_can_be_taken_after_the_end():
    async def scenario():
        outbox = ChunkSlot(latest=True)
        await outbox.put(chunk(0))
        outbox.close()
        assert await outbox.wait() and await outbox.wait()
        outbox.take()
        return await outbox.wait()

    assert anyio.run(scenario) is False


def test_a_dropped_chunk_leaves_its_events_to_the_one_after_it():
    async def scenario():
        outbox = ChunkSlot(latest=True)
        await outbox.put(chunk(0, event_ids=[4, 5], has_new_keys=True))
        await outbox.put(chunk(1, event_ids=[5, 6]))
        await outbox.put(chunk(2))
        return outbox.take()

    controls = anyio.run(scenario).controls
    assert (controls.event_ids, controls.has_new_keys) == ([4, 5, 6], True)
