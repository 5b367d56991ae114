"""Sessions whose sockets were lost, and the tokens that find them again."""

import asyncio

import pytest
from msgspec.structs import replace

from deployments.fork_store import LeftWorld
from deployments.rank_replies import HandedOver
from deployments.sessions.lease_reply import Ended, Full, NotHere
from deployments.sessions.resume_token import parse_resume_token
from lingbot.runtime.history import History
from lingbot.runtime.snapshot import RESUMED_CHUNKS, decode_snapshot, encode_snapshot
from tests.deployments.fakes import (
    IMAGE,
    OPENED,
    ORIGIN,
    SECRET,
    SPEC,
    FakeRank,
    Remote,
    chunk,
    run,
)
from tests.deployments.walking import die, grant, next_lease, opened, running, walk, walked
from tests.waiting import until
from transport.wire.errors import Busy, SessionGone, TakenOver


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
        assert group.streams[0].cancelled and rank.ended == [] and world.forks.left == {}
        token = parse_resume_token(session.resume_token)
        assert (token.group_id, token.session_id, token.secret) == ("group-a", "a", SECRET)

    run(scenario)


def test_a_session_that_is_not_resumable_ends_with_its_socket():
    async def scenario(world, group, messages):
        session, rank = await opened(world, group, spec=SPEC)
        assert session.resume_token is None
        session.detach()
        assert rank.ended == [("a", 1)] and world.forks.left == {}

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
        snapshot = decode_snapshot(world.forks.left[token].data, max_bytes=2**20)
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
        rank.handed_over = HandedOver(snapshot=snapshot_of(9), last_frame=IMAGE)
        rank.next_chunk = 9
        grant(group, "a", rank=rank, attached=True, epoch=2, age_s=70.0)
        session, saved = await resuming
        assert 70 <= session.age_s < 80
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
    handed = HandedOver(snapshot=snapshot_of(3), last_frame=IMAGE, age_s=70.0)
    hand_over = HandOver(a=handed) if where == "a group that drains" else HandOver()
    token = f"group-a.a.{SECRET}"

    async def scenario(world, group, messages):
        running(world, "group-b")
        if where == "the store":
            world.forks.left = {
                token: LeftWorld(data=encode_snapshot(snapshot_of(3)), age_s=70.0, claim=2)
            }
        resuming = asyncio.create_task(world.resume(token, on_wait=ignore))
        await next_lease(group, 0)
        assert group.demands[0].returning and group.demands[0].resume is None
        assert group.demands[0].resumable and group.demands[0].width == 16
        assert group.demands[0].age_s == 70  # `max_session_s` does not begin anew
        rank = FakeRank(replace(OPENED, last_frame=IMAGE))
        grant(group, "b", rank=rank)
        session, saved = await resuming
        assert saved.chunk_index == 3 and rank.restored[0].next_chunk == 3
        assert (session.last_frame == IMAGE).all() and hand_over.asked == [token]
        newer = f"group-b.b.{SECRET}"
        assert session.resume_token == newer
        await world.finish()
        kept = world.forks.left.pop(token)
        assert kept.has_moved and kept.data.decode() == newer and world.forks.left == {}
        session.close()

    run(scenario, hand_over=hand_over)


def test_a_session_that_its_group_does_not_have_any_more_is_looked_for_elsewhere():
    async def scenario(world, group, messages):
        running(world, "group-a")
        world.left.forks = None
        resuming = asyncio.create_task(world.resume(f"group-a.a.{SECRET}", on_wait=ignore))
        await next_lease(group, 0)
        group.streams[0].items.put_nowait(NotHere("group-a"))
        with pytest.raises(SessionGone) as gone:
            await resuming
        assert gone.value.field == "resume" and group.streams[0].cancelled

    run(scenario, hand_over=HandOver())


@pytest.mark.parametrize("realtime", [True, False])
@pytest.mark.parametrize("where", ["its group", "the store"])
def test_a_resumed_world_asks_for_a_place_as_its_new_socket_plays(monkeypatch, where, realtime):
    monkeypatch.setattr("deployments.saved_world.check_snapshot", lambda snapshot, config: None)
    token = f"group-a.a.{SECRET}"

    async def scenario(world, group, messages):
        running(world, "group-a" if where == "its group" else "group-b")
        world.forks.left[token] = LeftWorld(
            data=encode_snapshot(snapshot_of(3)), age_s=70.0, claim=2
        )
        resuming = asyncio.create_task(world.resume(token, on_wait=ignore, realtime=realtime))
        await next_lease(group, 0)
        rank = FakeRank()
        if where == "its group":
            rank.handed_over = HandedOver(snapshot=snapshot_of(3), last_frame=IMAGE)
            grant(group, "a", rank=rank, attached=True, epoch=2)
            session, _ = await resuming
            running(world, "group-b")  # it moves
            await next_lease(group, 1)
        else:
            grant(group, "b", rank=rank)
            session, _ = await resuming
        assert group.demands[-1].resume is None and group.demands[-1].realtime == realtime
        session.close()

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
        world.left.forks = None
        with pytest.raises(SessionGone):
            await resuming
        assert group.streams[0].cancelled

    run(scenario, hand_over=HandOver())


def test_a_session_is_left_in_its_group_by_a_client_that_is_lost_again():
    """The group may be busy with a step, and answers late."""

    async def scenario(world, group, messages):
        asked = asyncio.Event()

        async def answer_late(*args):
            asked.set()
            await asyncio.Event().wait()

        running(world, "group-a")
        resuming = asyncio.create_task(world.resume(f"group-a.a.{SECRET}", on_wait=ignore))
        await next_lease(group, 0)
        rank = FakeRank()
        rank.hand_over = Remote(answer_late)
        grant(group, "a", rank=rank, attached=True, epoch=2)
        await asked.wait()
        resuming.cancel()
        await asyncio.wait([resuming])
        assert group.streams[0].cancelled and rank.ended == []

    run(scenario)


def test_a_world_that_was_taken_and_finds_no_place_is_stored_for_another_try(monkeypatch):
    monkeypatch.setattr("deployments.saved_world.check_snapshot", lambda snapshot, config: None)
    token = f"group-a.a.{SECRET}"

    async def scenario(world, group, messages):
        running(world, "group-b")
        resuming = asyncio.create_task(world.resume(token, on_wait=ignore))
        await next_lease(group, 0)
        group.streams[0].items.put_nowait(Full("every world is taken", 5))
        with pytest.raises(Busy):
            await resuming
        await world.finish()
        world.left.hand_over = HandOver()
        resuming = asyncio.create_task(world.resume(token, on_wait=ignore))
        await next_lease(group, 1)
        rank = grant(group, "b")
        session, _ = await resuming
        assert rank.restored[0].next_chunk == 3
        session.close()

    run(scenario, hand_over=HandOver(a=HandedOver(snapshot=snapshot_of(3), last_frame=IMAGE)))


def test_the_first_of_two_sockets_that_resume_at_once_hears_of_the_other():
    async def scenario(world, group, messages):
        running(world, "group-a")
        resuming = asyncio.create_task(world.resume(f"group-a.a.{SECRET}", on_wait=ignore))
        await next_lease(group, 0)
        group.streams[0].items.put_nowait(Ended("taken_over"))
        with pytest.raises(TakenOver):
            await resuming
        assert group.streams[0].cancelled and world.left.hand_over.asked == []

    run(scenario, hand_over=HandOver())


@pytest.mark.parametrize("event", ["its client leaves", "the answer is late"])
@pytest.mark.parametrize("where", ["a group that drains", "the store"])
def test_a_world_that_is_taken_when_no_client_waits_is_stored(monkeypatch, where, event):
    """Its group, or the store, does not have it any more."""
    monkeypatch.setattr("deployments.saved_world.check_snapshot", lambda snapshot, config: None)
    token = f"group-a.a.{SECRET}"

    async def scenario(world, group, messages):
        running(world, "group-b")
        asked, answer = asyncio.Event(), asyncio.Event()

        async def hand_over(application, token):
            if where == "the store":
                return None
            asked.set()
            await answer.wait()
            return HandedOver(snapshot=snapshot_of(3), last_frame=IMAGE)

        async def take(token):
            asked.set()
            data = world.forks.left.pop(token)
            await answer.wait()
            return data

        world.left.hand_over, world.forks.take = hand_over, take
        if event == "the answer is late":
            world.forks.timeout_s = 0.01
            monkeypatch.setattr("deployments.left_worlds.MARGIN_S", 0.0)
        if where == "the store":
            world.forks.left[token] = LeftWorld(
                data=encode_snapshot(snapshot_of(3)), age_s=70.0, claim=2
            )
        resuming = asyncio.create_task(world.resume(token, on_wait=ignore))
        await asked.wait()
        if event == "its client leaves":
            resuming.cancel()
        await asyncio.wait([resuming])
        assert resuming.cancelled() == (event == "its client leaves")
        assert resuming.cancelled() or isinstance(resuming.exception(), Busy)
        assert world.forks.left == {}
        answer.set()
        await world.finish()
        kept = decode_snapshot(world.forks.left[token].data, max_bytes=2**20)
        assert kept.next_chunk == 3 and group.streams == []

    run(scenario, step_timeout_s=0.01 if event == "the answer is late" else 60.0)
