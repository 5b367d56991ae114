"""Sessions whose groups die or drain: their worlds go on in other ones."""

import asyncio

import pytest
from msgspec.structs import replace
from ray.exceptions import RayTaskError

from deployments.place import MAX_LOSSES
from deployments.rank_replies import HandedOver
from deployments.refusal import Refusal
from deployments.sessions.lease_reply import Ended, Full, NotHere
from deployments.sessions.resume_token import parse_resume_token
from deployments.world_group import Lease
from lingbot.runtime.history import History
from lingbot.runtime.snapshot import RESUMED_CHUNKS, decode_snapshot, encode_snapshot
from tests.deployments.fakes import (
    DEPLOYMENT,
    HANGS,
    IMAGE,
    OPENED,
    ORIGIN,
    SECRET,
    SPEC,
    FakePrompts,
    FakeRank,
    chunk,
    run,
    start_opening,
)
from transport.wire.errors import Refused, SessionGone, TakenOver, WorldFailed, WorldLost
from transport.wire.messages import Moved, Starting

TRANSPORTS = ("lingbot", "Transport")
RESUMABLE = replace(SPEC, prompt="snow", resumable=True)


def grant(group, name, *, rank=None, group_id=None, attached=False, epoch=1):
    """Answer the newest lease call."""
    rank = rank or FakeRank()
    lease = Lease(name, rank, group_id or f"group-{name}", epoch, SECRET, attached)
    group.streams[-1].items.put_nowait(lease)
    return rank


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


async def next_lease(group, number):
    """Returns once the call of this number has been made."""
    await until(lambda: len(group.streams) > number)


async def opened(world, group, messages=(), *, spec=RESUMABLE):
    opening = await start_opening(world, group, messages or [], spec=spec)
    rank = grant(group, "a")
    return await opening, rank


async def start_step(session, keys="w", prompt=None):
    return await session.step([keys], prompt=prompt, time_to_underrun_s=0.5)


async def walk(session, *numbers):
    """Step, and check that these chunks come."""
    for number in numbers:
        assert (await (await start_step(session)) == chunk(number).frames).all()


def die(group, rank, number=0):
    """A group dies: its rank, and the lease call on it."""
    rank.die()
    group.streams[number].items.put_nowait(rank.error)


def test_a_world_whose_group_dies_goes_on_elsewhere_at_the_same_chunk():
    async def scenario(world, group, messages):
        session, first = await opened(world, group)
        await walk(session, 0, 1)
        die(group, first)
        await next_lease(group, 1)
        assert group.demands[1].returning and not group.demands[0].returning
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
        rank.replies = ()  # calls of an older lease yield nothing
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


# ---- groups that drain


@pytest.fixture(autouse=True)
def short_delay(monkeypatch):
    """Before a world gives up its place: the time of some steps."""
    monkeypatch.setattr("deployments.mover.GIVE_UP_DELAY_S", 0.03)


def running(world, *groups):
    world._running.update(DEPLOYMENT, frozenset(groups))


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


def test_a_world_without_another_group_goes_on_for_a_moment():
    """Its transport may be about to drain, too, and its client to resume elsewhere."""

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
        assert session._known_token == token and world.forks.worlds == {}

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


# ---- save, fork, rewind, reset


async def walked(world, group, num_chunks):
    session, rank = await opened(world, group)
    await walk(session, *range(num_chunks))
    return session, rank


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


# ---- sockets that were lost


def snapshot_of(num_chunks):
    """As a rank hands it over: with chunks that the client may not have received."""
    history = History(ORIGIN, prompt="snow", budget_bytes=0, num_more=RESUMED_CHUNKS)
    for number in range(num_chunks):
        history.append(chunk(number).latents, ["w"], None)
    return history.snapshot(num_more=RESUMED_CHUNKS)


async def ignore(status):
    """A client that waits."""


def test_a_detached_session_keeps_its_world_in_its_group():
    async def scenario(world, group, messages):
        running(world, "group-a", "group-b")
        session, rank = await walked(world, group, 2)
        running(world, "group-b")  # a group that drains waits for such sessions
        session.detach()
        assert group.streams[0].cancelled and rank.ended == [] and world.forks.worlds == {}
        token = parse_resume_token(session.resume_token)
        assert (token.group_id, token.session_id, token.secret) == ("group-a", "a", SECRET)

    run(scenario)


def test_a_session_that_is_not_resumable_ends_with_its_socket():
    async def scenario(world, group, messages):
        session, rank = await opened(world, group, spec=SPEC)
        assert session.resume_token is None
        session.detach()
        assert rank.ended == [("a", 1)] and world.forks.worlds == {}

    run(scenario)


@pytest.mark.parametrize("state", ["it moves", "its client has an old token"])
def test_a_detached_session_without_a_group_to_wait_in_is_stored(state):
    async def scenario(world, group, messages):
        running(world, "group-a", "group-b")
        session, rank = await walked(world, group, 2)
        token = session.resume_token
        if state == "it moves":
            die(group, rank)
            await next_lease(group, 1)
        else:
            die(group, rank)
            await next_lease(group, 1)
            rank = grant(group, "b")
            await until(lambda: session._mover.can_detach)
        session.detach()
        await world.finish()
        assert rank.ended
        snapshot = decode_snapshot(world.forks.worlds[token], max_bytes=2**20)
        assert snapshot.next_chunk == 2
        await until(lambda: all(stream.cancelled for stream in group.streams))

    run(scenario)


def test_a_token_attaches_to_a_session_that_waits_in_its_group():
    async def scenario(world, group, messages):
        running(world, "group-a")
        token = f"group-a.a.{SECRET}"
        resuming = asyncio.create_task(world.resume(token, on_wait=ignore))
        await next_lease(group, 0)
        assert group.demands[0].resume == ("a", SECRET) and group.demands[0].group == "group-a"
        rank = FakeRank()
        rank.handed_over = HandedOver(snapshot_of(9), IMAGE)
        rank.next_chunk = 9
        grant(group, "a", rank=rank, attached=True, epoch=2)
        session, saved = await resuming
        assert (saved.chunk_index, saved.prompt, saved.width, saved.seed) == (9, "snow", 16, 1)
        assert session.chunk_index == 9 and (session.last_frame == IMAGE).all()
        assert rank.restored == [] and session.resume_token == token
        await walk(session, 9)
        assert rank.calls[-1][:2] == ("a", 2)
        await session.rewind(6)  # the client has not received the last chunks before
        await walk(session, 6)
        session.close()

    run(scenario)


class HandOver:
    """Ranks of groups that drain, by token."""

    def __init__(self, **handed):
        self.handed, self.asked = handed, []

    async def __call__(self, application, token):
        self.asked.append(str(token))
        return self.handed.get(token.session_id)


@pytest.mark.parametrize("where", ["a group that drains", "the store"])
def test_a_token_takes_the_world_of_a_group_that_does_not_run(monkeypatch, where):
    monkeypatch.setattr("deployments.saved_world.check_snapshot", lambda snapshot, config: None)
    handed = HandedOver(snapshot_of(3), IMAGE)
    hand_over = HandOver(a=handed) if where == "a group that drains" else HandOver()
    token = f"group-a.a.{SECRET}"

    async def scenario(world, group, messages):
        running(world, "group-b")
        world.forks.worlds = (
            {token: encode_snapshot(snapshot_of(3))} if where == "the store" else {}
        )
        resuming = asyncio.create_task(world.resume(token, on_wait=ignore))
        await next_lease(group, 0)
        assert group.demands[0].returning and group.demands[0].resume is None
        assert group.demands[0].resumable and group.demands[0].width == 16
        rank = FakeRank(replace(OPENED, last_frame=IMAGE))
        grant(group, "b", rank=rank)
        session, saved = await resuming
        assert saved.chunk_index == 3 and rank.restored[0].next_chunk == 3
        assert (session.last_frame == IMAGE).all() and hand_over.asked == [token]
        assert session.resume_token == f"group-b.b.{SECRET}" and world.forks.worlds == {}
        session.close()

    run(scenario, hand_over=hand_over)


def test_a_session_that_its_group_does_not_have_any_more_is_looked_for_elsewhere():
    async def scenario(world, group, messages):
        running(world, "group-a")
        world.forks = None
        resuming = asyncio.create_task(world.resume(f"group-a.a.{SECRET}", on_wait=ignore))
        await next_lease(group, 0)
        group.streams[0].items.put_nowait(NotHere("group-a"))
        with pytest.raises(SessionGone) as gone:
            await resuming
        assert gone.value.field == "resume" and group.streams[0].cancelled

    run(scenario, hand_over=HandOver())


@pytest.mark.parametrize("token", ["", "a.b", "a.b.short", f"a.b/c.{SECRET}", f"a.b.{SECRET}\n"])
def test_a_text_that_is_no_token_asks_nobody(token):
    async def scenario(world, group, messages):
        with pytest.raises(SessionGone):
            await world.resume(token, on_wait=ignore)
        assert group.streams == []

    run(scenario, hand_over=HandOver())


def test_an_attached_session_that_cannot_be_read_leaves_no_lease():
    async def scenario(world, group, messages):
        resuming = asyncio.create_task(world.resume(f"group-a.a.{SECRET}", on_wait=ignore))
        await next_lease(group, 0)
        rank = grant(group, "a", attached=True)
        rank.die()
        world.forks = None
        with pytest.raises(SessionGone):
            await resuming
        assert group.streams[0].cancelled

    run(scenario, hand_over=HandOver())


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
