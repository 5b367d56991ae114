from dataclasses import replace

import anyio

from transport.connection.chunk_slot import ChunkSlot, GeneratedChunk, SharedFrames
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


def test_a_dropped_chunk_passes_on_that_its_world_was_turned_back():
    old = replace(chunk(0), controls=replace(chunk(0).controls, is_new_course=True))
    assert chunk(1).after(old).controls.is_new_course
    assert not chunk(1).after(chunk(0)).controls.is_new_course


def test_the_chunk_that_waits_is_dropped_and_the_one_in_hand_is_awaited():
    async def scenario():
        slot, dropped = ChunkSlot(latest=True), []

        async def drop():
            await slot.drop_waiting()
            dropped.append(True)

        await slot.put(chunk(0))
        in_hand = slot.take()
        await slot.put(chunk(1))
        assert [one.index for one in slot.unsent] == [0, 1]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drop)
            await anyio.wait_all_tasks_blocked()
            assert (slot.unsent, dropped) == ([in_hand], [])
            slot.finish()
        assert (slot.unsent, slot.num_dropped_frames, slot.take()) == ([], 12, None)

    anyio.run(scenario)


def test_several_tasks_await_the_frames_that_are_fetched_once():
    async def scenario():
        fetched, got, ready = [], [], anyio.Event()

        async def fetch():
            fetched.append(True)
            await ready.wait()
            return "frames"

        shared = SharedFrames(fetch())

        async def await_them():
            got.append(await shared)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(await_them)
            await anyio.wait_all_tasks_blocked()
            ready.set()
        return fetched, got, await shared

    assert anyio.run(scenario) == ([True], ["frames"] * 3, "frames")
