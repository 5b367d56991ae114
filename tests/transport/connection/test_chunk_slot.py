import anyio

from transport.connection.chunk_slot import ChunkSlot, GeneratedChunk
from transport.wire.controls import ChunkControls


def chunk(index, num_frames=12, *, event_ids=(), has_new_keys=False, event_s=None):
    controls = ChunkControls(
        actions=[],
        event_ids=list(event_ids),
        prompt=None,
        has_new_keys=has_new_keys,
        event_s=event_s,
    )
    return GeneratedChunk(
        index=index,
        frames=None,
        num_frames=num_frames,
        position=0,
        controls=controls,
        begun_s=0.0,
        waited_s=0.0,
        prepared_s=0.0,
        denoising_s=0.0,
    )


def test_generation_waits_until_a_chunk_is_taken():
    async def scenario():
        slot, put = ChunkSlot(), []

        async def generate():
            for index in range(3):
                await slot.put(chunk(index))
                put.append(index)
            slot.close()

        taken = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(generate)
            while await slot.wait():
                await anyio.wait_all_tasks_blocked()
                assert put == taken, "a chunk was put before the last was taken"
                taken.append(slot.take().index)
        return taken, put, slot.num_dropped_frames

    assert anyio.run(scenario) == ([0, 1, 2], [0, 1, 2], 0)


def test_in_latest_mode_a_newer_chunk_replaces_an_older_one():
    async def scenario():
        slot = ChunkSlot(latest=True)
        for index, num_frames in ((0, 9), (1, 12), (2, 12)):
            await slot.put(chunk(index, num_frames))
        slot.close()
        assert await slot.wait()
        return slot.take().index, slot.num_dropped_frames, await slot.wait()

    assert anyio.run(scenario) == (2, 21, False)


def test_the_last_chunk_can_be_taken_after_the_close():
    async def scenario():
        slot = ChunkSlot(latest=True)
        await slot.put(chunk(0))
        slot.close()
        assert await slot.wait() and await slot.wait()
        slot.take()
        return await slot.wait()

    assert anyio.run(scenario) is False


def test_a_dropped_chunk_passes_its_events_to_the_next():
    async def scenario():
        slot = ChunkSlot(latest=True)
        await slot.put(chunk(0, event_ids=[4, 5], has_new_keys=True))
        await slot.put(chunk(1, event_ids=[5, 6]))
        await slot.put(chunk(2))
        return slot.take()

    controls = anyio.run(scenario).controls
    assert (controls.event_ids, controls.has_new_keys) == ([4, 5, 6], True)


def test_keys_of_a_dropped_chunk_keep_their_time():
    old, new = chunk(0, event_s=1.0), chunk(1, event_s=2.0)
    assert new.after(old).controls.event_s == 1.0
    assert new.after(chunk(0)).controls.event_s == 2.0
    assert chunk(1).after(old).controls.event_s == 1.0
