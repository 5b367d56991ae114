"""Worlds whose groups drain, and transports that drain."""

import asyncio

import pytest

from tests.deployments.fakes import (
    SPEC,
    Remote,
    chunk,
    run,
)
from tests.deployments.walking import (
    die,
    grant,
    next_lease,
    opened,
    running,
    start_step,
    walk,
    walked,
)
from tests.waiting import until
from transport.wire.errors import Busy
from transport.wire.messages import Moved

TRANSPORTS = ("lingbot", "Transport")


@pytest.fixture(autouse=True)
def short_delay(monkeypatch):
    """Before a world gives up its place: the time of some steps."""
    monkeypatch.setattr("deployments.mover.GIVE_UP_DELAY_S", 0.03)


def test_a_world_leaves_a_group_that_drains_as_soon_as_another_one_has_room():
    async def scenario(world, group, messages):
        running(world, "group-a", "group-b")
        session, first = await opened(world, group)
        await walk(session, 0)
        running(world, "group-b")
        await next_lease(group, 1)
        await walk(session, 1)  # where it is, until there is room
        assert len(first.stepped) == 2 and first.ended == []
        second = grant(group, "b")
        await until(lambda: second.restored)
        await walk(session, 2)
        assert second.restored[0].next_chunk == 2 and first.ended == [("a", 1)]
        assert [type(one) for one in session.take_notices()] == [Moved]
        session.close()

    run(scenario)


def test_chunks_of_a_draining_group_arrive_before_the_world_leaves_it():
    async def scenario(world, group, messages):
        running(world, "group-a", "group-b")
        session, first = await opened(world, group)
        first.decode.clear()
        pending = await start_step(session)
        running(world, "group-b")
        await next_lease(group, 1)
        second = grant(group, "b")
        await asyncio.sleep(0.02)
        assert second.restored == []
        first.decode.set()
        assert (await pending == chunk(0).frames).all()
        await walk(session, 1)
        assert second.restored[0].next_chunk == 1 and len(first.stepped) == 1
        session.close()

    run(scenario)


def test_a_session_that_is_closed_before_it_has_left_its_group_leaves_no_place_elsewhere():
    async def scenario(world, group, messages):
        running(world, "group-a", "group-b")
        session, first = await opened(world, group)
        first.decode.clear()
        await start_step(session)
        running(world, "group-b")
        await next_lease(group, 1)
        second = grant(group, "b")
        await until(lambda: session._mover._moving)
        session.close()
        await until(lambda: second.ended)
        assert group.streams[1].cancelled and second.restored == []

    run(scenario)


def test_a_world_gives_up_its_place_where_no_other_group_runs():
    """A new group may need the resources of the one that drains."""

    async def scenario(world, group, messages):
        running(world, "group-a")
        session, first = await opened(world, group)
        await walk(session, 0)
        running(world)
        await next_lease(group, 1)
        assert first.ended == [("a", 1)] and group.streams[0].cancelled
        grant(group, "b")
        running(world, "group-b")
        await walk(session, 1)
        session.close()

    run(scenario)


def test_a_world_without_another_group_goes_on_for_a_moment(monkeypatch):
    """Its transport may be about to drain, too, and its client to resume elsewhere."""
    monkeypatch.setattr("deployments.mover.GIVE_UP_DELAY_S", 60)

    async def scenario(world, group, messages):
        running(world, "group-a")
        session, first = await walked(world, group, 1)
        running(world)
        await walk(session, 1)
        assert session._mover.can_detach
        token = session.resume_token
        session.detach()
        await asyncio.sleep(0.05)
        assert first.ended == [] and group.streams[0].cancelled and len(group.streams) == 1
        assert session._known_token == token and world.forks.left == {}

    run(scenario)


def test_a_socket_that_is_lost_while_its_world_leaves_a_group_does_not_lose_the_world():
    """The group may have ended the session, and has not answered yet."""

    async def scenario(world, group, messages):
        running(world, "group-a", "group-b")
        session, first = await walked(world, group, 1)
        asked, token = asyncio.Event(), session.resume_token

        def end(session_id, epoch, has_moved=False):
            asked.set()
            return asyncio.get_running_loop().create_future()

        first.end = Remote(end)
        running(world, "group-b")
        await next_lease(group, 1)
        grant(group, "b")
        await asked.wait()
        session.detach()
        await world.finish()
        assert list(world.forks.left) == [token]
        await until(lambda: all(stream.cancelled for stream in group.streams))

    run(scenario)


def drain(world):
    """Serve drains this transport replica."""
    world._running.update(TRANSPORTS, frozenset(["me"]))
    world._running.update(TRANSPORTS, frozenset(["other"]))


@pytest.mark.parametrize("order", ["group first", "transport first"])
@pytest.mark.parametrize("others", [(), ("group-b",)], ids=["no other group", "another group"])
def test_a_world_whose_transport_drains_too_is_left_to_its_client(order, others):
    async def scenario(world, group, messages):
        running(world, "group-a", *others)
        session, first = await walked(world, group, 1)
        if order == "transport first":
            drain(world)
        running(world, *others)
        await asyncio.sleep(0.01)
        drain(world)
        if len(group.streams) > 1:
            grant(group, "b")
        await asyncio.sleep(0.05)
        await walk(session, 1)
        assert first.ended == [] and session.take_notices() == []
        assert all(stream.cancelled for stream in group.streams[1:])
        session.close()

    run(scenario)


def test_a_client_that_cannot_resume_moves_with_its_world_from_a_transport_that_drains():
    async def scenario(world, group, messages):
        running(world, "group-a", "group-b")
        session, first = await opened(world, group, spec=SPEC)
        drain(world)
        running(world, "group-b")
        await next_lease(group, 1)
        grant(group, "b")
        await until(lambda: first.ended)
        await walk(session, 0)
        session.close()

    run(scenario)


def test_a_transport_that_drains_tells_its_connections():
    async def scenario(world, group, messages):
        draining = asyncio.create_task(world.draining())
        await asyncio.sleep(0.01)
        assert not draining.done() and not world.is_draining()
        drain(world)
        assert "goes away" in await draining and world.is_draining()

    run(scenario)


def test_a_world_that_looks_for_a_place_gives_its_own_up_when_the_last_group_goes():
    async def scenario(world, group, messages):
        running(world, "group-a", "group-b")
        session, first = await opened(world, group)
        running(world, "group-b")
        await next_lease(group, 1)
        running(world)
        await next_lease(group, 2)
        assert first.ended == [("a", 1)] and group.streams[1].cancelled
        grant(group, "c")
        running(world, "group-c")
        await walk(session, 0)
        session.close()

    run(scenario)


def test_a_draining_group_that_dies_before_another_has_room_is_left_at_once():
    async def scenario(world, group, messages):
        running(world, "group-a", "group-b")
        session, first = await opened(world, group)
        running(world, "group-b")
        await next_lease(group, 1)
        die(group, first)
        await next_lease(group, 2)
        assert group.streams[1].cancelled
        grant(group, "b")
        await walk(session, 0)
        session.close()

    run(scenario)


def test_no_error_ends_the_search_for_another_place_and_its_pauses_grow(monkeypatch):
    async def scenario(world, group, messages):
        running(world, "group-a", "group-b")
        session, first = await opened(world, group)
        lease, pauses, sleep = world.lease, [], asyncio.sleep
        errors = [OSError("no handle"), *[Busy("full")] * 11]

        async def note_pause(delay):
            pauses.append(delay)
            await sleep(0)

        async def fail(*args, **options):
            if errors:
                raise errors.pop(0)
            return await lease(*args, **options)

        world.lease = fail
        with monkeypatch.context() as patch:
            patch.setattr("deployments.mover.asyncio.sleep", note_pause)
            running(world, "group-b")
            while len(group.streams) < 2:
                await sleep(0.001)
        assert pauses[:3] == [0.01, 0.02, 0.04] and pauses[-2:] == [8.0, 8.0]
        second = grant(group, "b")
        await until(lambda: second.restored)
        await walk(session, 0)
        session.close()

    run(scenario)
