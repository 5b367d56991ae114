"""Sessions whose groups die: their worlds go on in other ones."""

import asyncio

import pytest
from ray.exceptions import RayTaskError

from deployments.place import MAX_LOSSES
from deployments.refusal import Refusal
from deployments.sessions.lease_reply import Ended, Full
from tests.deployments.fakes import (
    HANGS,
    IMAGE,
    SECRET,
    FakeRank,
    chunk,
    run,
)
from tests.deployments.walking import RESUMABLE, die, grant, next_lease, opened, start_step, walk
from tests.waiting import until
from transport.wire.errors import Refused, TakenOver, WorldFailed, WorldLost
from transport.wire.messages import Moved, Starting


def test_a_world_whose_group_dies_goes_on_elsewhere_at_the_same_chunk():
    async def scenario(world, group, messages):
        session, first = await opened(world, group)
        await walk(session, 0, 1)
        die(group, first)
        await next_lease(group, 1)
        assert group.demands[1].returning and not group.demands[0].returning
        assert 0 < group.demands[1].age_s < 60 and group.demands[0].age_s == 0
        second = grant(group, "b")
        await walk(session, 2, 3)
        (snapshot,) = second.restored
        assert snapshot.next_chunk == 2 and snapshot.prompt == "snow"
        assert [one.index for one in snapshot.chunks] == [0, 1]
        assert (snapshot.chunks[1].latents == chunk(1).latents).all()
        token = f"group-b.b.{SECRET}"
        assert session.take_notices() == [Moved(2, token)] and session.resume_token == token
        assert session.id == "a" and session.chunk_index == 4
        assert first.ended == [("a", 1)] and group.streams[0].cancelled
        session.close()

    run(scenario)


def test_the_same_world_forked_twice_is_stored_once():
    async def scenario(world, group, messages):
        session, rank = await opened(world, group)
        await walk(session, 0)
        first, again = await session.fork(), await session.fork()
        assert first == again and len(world.forks.worlds) == 1
        await walk(session, 1)
        assert await session.fork() != first and len(world.forks.worlds) == 2
        session.close()

    run(scenario)


@pytest.mark.parametrize("where", ["while it is denoised", "while it is decoded"])
def test_chunks_on_their_way_are_repeated_in_order_and_none_is_sent_twice(where):
    async def scenario(world, group, messages):
        session, first = await opened(world, group)
        await walk(session, 0)
        first.decode.clear()
        pending = await start_step(session, "a", "rain")
        if where == "while it is denoised":
            first.denoise.clear()
            stepping = asyncio.create_task(start_step(session, "d"))
            await until(lambda: len(first.stepped) == 3)
        die(group, first)
        await next_lease(group, 1)
        second = grant(group, "b")
        assert (await pending == chunk(1).frames).all()
        expected = [(1, ["a"], "rain")]
        if where == "while it is denoised":
            assert (await (await stepping) == chunk(2).frames).all()
            expected.append((2, ["d"], None))
        assert second.stepped == expected and second.restored[0].next_chunk == 1
        await walk(session, *range(session.chunk_index, 5))
        assert session._history.snapshot().journal.prompts == ((0, "snow"), (1, "rain"))
        session.close()

    run(scenario)


def test_a_chunk_that_comes_late_from_the_old_group_is_not_taken():
    async def scenario(world, group, messages):
        session, first = await opened(world, group)
        await walk(session, 0)
        first.decode.clear()
        pending = await start_step(session)
        group.streams[0].items.put_nowait(Ended("expired"))  # the lease, not the process
        await next_lease(group, 1)
        second = grant(group, "b")
        second.decode.clear()
        await until(lambda: second.stepped)
        first.decode.set()
        await asyncio.sleep(0.02)
        assert session.chunk_index == 2 and session._history.next_chunk == 1
        second.decode.set()
        assert (await pending == chunk(1).frames).all()
        assert session._history.next_chunk == 2
        session.close()

    run(scenario)


def test_a_world_without_a_chunk_yet_survives_too():
    async def scenario(world, group, messages):
        session, first = await opened(world, group)
        first.denoise.clear()
        stepping = asyncio.create_task(start_step(session))
        await until(lambda: first.stepped)
        die(group, first)
        await next_lease(group, 1)
        second = grant(group, "b")
        assert (await (await stepping) == chunk(0).frames).all()
        assert second.restored[0].next_chunk == 0 and second.restored[0].chunks == ()
        session.close()

    run(scenario)


def test_a_paused_world_is_restored_at_once_and_is_paused_there():
    async def scenario(world, group, messages):
        session, first = await opened(world, group)
        await walk(session, 0)
        session.pause()
        die(group, first)
        await next_lease(group, 1)
        second = grant(group, "b")
        await until(lambda: second.paused)
        assert second.restored[0].next_chunk == 1 and second.stepped == []
        session.close()

    run(scenario)


def test_a_client_hears_that_its_world_waits_and_one_that_refuses_keeps_it():
    async def scenario(world, group, messages):
        async def on_wait(status):
            if opening.done():
                messages.append(status)
                raise Refused("no patience", close_code=1008)

        opening = asyncio.create_task(world.open(RESUMABLE, IMAGE, on_wait=on_wait))
        await next_lease(group, 0)
        first = grant(group, "a")
        session = await opening
        die(group, first)
        await until(lambda: len(messages) > 2)
        assert set(messages) == {Starting()}
        grant(group, "b")
        await walk(session, 0)
        session.close()

    run(scenario)


def test_a_second_group_that_dies_during_the_restoration_is_replaced_too():
    async def scenario(world, group, messages):
        session, first = await opened(world, group)
        await walk(session, 0)
        die(group, first)
        await next_lease(group, 1)
        grant(group, "b", rank=FakeRank(HANGS)).die()
        await next_lease(group, 2)
        assert group.streams[1].cancelled
        grant(group, "c")
        await walk(session, 1)
        assert session.take_notices() == [Moved(1, f"group-c.c.{SECRET}")]
        session.close()

    run(scenario)


def test_a_group_that_dies_while_chunks_are_repeated_is_replaced_too():
    async def scenario(world, group, messages):
        session, first = await opened(world, group)
        first.decode.clear()
        pending = await start_step(session)
        die(group, first)
        await next_lease(group, 1)
        second = grant(group, "b")
        second.decode.clear()
        await until(lambda: second.stepped)
        die(group, second, 1)
        await next_lease(group, 2)
        third = grant(group, "c")
        assert (await pending == chunk(0).frames).all()
        assert len(third.stepped) == 1
        session.close()

    run(scenario)


def test_a_world_that_ends_one_group_after_the_other_is_lost():
    async def scenario(world, group, messages):
        session, rank = await opened(world, group)
        stepping = asyncio.create_task(start_step(session))
        for number in range(MAX_LOSSES):
            rank.denoise.clear()
            die(group, rank, number)
            await next_lease(group, number + 1)
            rank = grant(group, f"{number}")
            rank.denoise.clear()
            await until(lambda rank=rank: rank.stepped)
        die(group, rank, MAX_LOSSES)
        with pytest.raises(WorldLost, match="died"):
            await stepping
        assert "died" in await session.lost() and len(group.streams) == MAX_LOSSES + 1
        assert all(stream.cancelled for stream in group.streams)

    run(scenario)


def test_an_error_of_the_engine_is_restored_once_and_then_fails_the_world():
    async def scenario(world, group, messages):
        error = RayTaskError("step", "Traceback of the rank", ValueError("a secret"))
        session, first = await opened(world, group)
        await walk(session, 0)
        first.replies = (error,)
        stepping = asyncio.create_task(start_step(session))
        await next_lease(group, 1)
        assert first.ended == [("a", 1)]
        second = FakeRank()
        grant(group, "b", rank=second)
        await until(lambda: second.restored)
        assert (await (await stepping) == chunk(1).frames).all()  # a chunk that does not fail here
        second.replies = (error,)
        stepping = asyncio.create_task(start_step(session))
        await next_lease(group, 2)
        third = grant(group, "c")
        third.respond_step = None
        third.step.remote = lambda *args: third.respond(args, (error,))
        with pytest.raises(WorldFailed, match="^the world failed$"):
            await stepping
        with pytest.raises(WorldFailed):
            await session.lost()
        assert len(group.streams) == 3

    run(scenario)


def test_a_world_that_finds_no_place_in_time_is_lost():
    async def scenario(world, group, messages):
        session, first = await opened(world, group)
        die(group, first)
        with pytest.raises(WorldLost, match="gave up after"):
            await start_step(session)
        assert "gave up after" in await session.lost()

    run(scenario, queue_timeout_s=0.05)


def test_a_full_line_loses_the_world():
    async def scenario(world, group, messages):
        session, first = await opened(world, group)
        die(group, first)
        await next_lease(group, 1)
        group.streams[1].items.put_nowait(Full("every world is taken", 9))
        assert "every world is taken" in await session.lost()

    run(scenario)


def test_a_world_that_the_new_group_refuses_is_restored_no_more_than_once():
    async def scenario(world, group, messages):
        session, first = await opened(world, group)
        die(group, first)
        for number in (1, 2):
            await next_lease(group, number)
            grant(group, "b", rank=FakeRank(Refusal("another fingerprint", "snapshot.fingerprint")))
        with pytest.raises(WorldFailed, match="another fingerprint"):
            await session.lost()
        assert len(group.streams) == 3

    run(scenario)


@pytest.mark.parametrize("reply", ["taken_over", "moved"])
def test_a_session_that_another_socket_has_taken_over_is_not_restored(reply):
    async def scenario(world, group, messages):
        session, rank = await opened(world, group)
        rank.replies, rank.is_taken_over = (), True  # calls of an older lease yield nothing
        stepping = asyncio.create_task(start_step(session))
        group.streams[0].items.put_nowait(Ended(reply))
        for ending in (session.lost(), stepping, start_step(session)):
            with pytest.raises(TakenOver, match="another socket"):
                await ending
        assert len(group.streams) == 1

    run(scenario)


def test_a_closed_session_leaves_nothing_that_runs():
    async def scenario(world, group, messages):
        session, rank = await opened(world, group)
        rank.decode.clear()
        await start_step(session)
        session.close()
        session.close()
        assert rank.ended[0] == ("a", 1) and group.streams[0].cancelled
        await until(lambda: len(asyncio.all_tasks()) <= 2)  # this one, and that of `run`

    run(scenario)


def test_a_session_that_is_closed_while_it_moves_leaves_no_lease():
    async def scenario(world, group, messages):
        session, first = await opened(world, group)
        die(group, first)
        await next_lease(group, 1)
        second = grant(group, "b", rank=FakeRank(HANGS))
        await until(lambda: second.restored)
        session.close()
        await until(lambda: group.streams[1].cancelled)
        assert second.ended == [("b", 1)]

    run(scenario)


def test_no_number_of_lost_groups_leaves_a_task_behind():
    async def scenario(world, group, messages):
        session, rank = await opened(world, group)
        for number in range(5):
            await walk(session, number)
            die(group, rank, number)
            await next_lease(group, number + 1)
            rank = grant(group, f"g{number}")
        await walk(session, 5)
        session.close()
        await until(lambda: len(asyncio.all_tasks()) <= 2)
        with pytest.raises(WorldLost, match="closed"):
            await start_step(session)

    run(scenario)
