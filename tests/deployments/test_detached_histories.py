"""A session that another socket of the same process resumes can be turned back as far as before."""

import asyncio

import numpy as np
import pytest
from msgspec.structs import replace

from deployments.detached_histories import DetachedHistories, catch_up
from lingbot.runtime.history import History
from lingbot.runtime.snapshot import RESUMED_CHUNKS
from tests.deployments.fakes import IMAGE, ORIGIN, chunk
from tests.deployments.two_transports import run
from tests.deployments.walking import RESUMABLE, start_step, walk
from tests.waiting import until
from transport.wire.errors import TakenOver
from transport.wire.limits import ClientLimits


@pytest.fixture(autouse=True)
def any_snapshot(monkeypatch):
    monkeypatch.setattr("deployments.saved_world.check_snapshot", lambda snapshot, config: None)


async def ignore(status):
    """A client that waits."""


async def opened(transport, num_chunks=20):
    session = await transport.world.open(RESUMABLE, IMAGE, on_wait=ignore)
    await walk(session, *range(num_chunks))
    return session


async def resumed(transport, session):
    newer, _ = await transport.world.resume(session._known_token, on_wait=ignore)
    return newer


LOSSES = ["is known", "is not known", "is heard of by the end of the lease", "is its group's, too"]


@pytest.mark.parametrize("loss", LOSSES)
def test_the_same_transport_turns_a_resumed_session_back_as_far_as_before(loss):
    async def scenario(cluster):
        session = await opened(cluster.old)
        if loss == "is known":
            session.detach()
        elif loss == "is not known":
            cluster.old.heard.clear()
        elif loss == "is its group's, too":
            cluster.die("a")
            while not session._mover._is_lost:  # before it finds another place
                await asyncio.sleep(0)
            session.detach()
            await cluster.old.world.finish()
        newer = await resumed(cluster.old, session)
        if loss in LOSSES[1:3]:
            with pytest.raises(TakenOver):
                await session.lost()
        assert (newer.earliest_chunk, newer.chunk_index) == (0, 20)
        await newer.rewind(4)
        await walk(newer, 4, 5)
        assert len(cluster.live()) == 1
        newer.close()

    run(scenario)


def test_chunks_that_were_on_their_way_are_in_the_history():
    async def scenario(cluster):
        session = await opened(cluster.old)
        await start_step(session, "d")
        await until(lambda: cluster.ranks["a"].worlds[session.id].next_chunk == 21)
        session.detach()
        newer = await resumed(cluster.old, session)
        assert (newer.earliest_chunk, newer.chunk_index) == (0, 21)
        assert newer.world_now().chunks[-1].actions == ("d",)
        await newer.rewind(20)  # which the client has not received
        await walk(newer, 20)
        newer.close()

    run(scenario)


@pytest.mark.parametrize("num_chunks, earliest", [(1, 0), (9, 25)])
def test_a_world_that_went_on_elsewhere_does_not_get_another_past(num_chunks, earliest):
    """One that is still close to its old history has it again."""

    async def scenario(cluster):
        session = await opened(cluster.old)
        session.detach()
        there = await resumed(cluster.new, session)
        assert there.earliest_chunk > 0
        await walk(there, *range(20, 20 + num_chunks))
        there.detach()
        back = await resumed(cluster.old, session)
        assert back.chunk_index == 20 + num_chunks
        assert (back.earliest_chunk == 0) == (earliest == 0)
        back.close()

    run(scenario)


def test_histories_without_a_socket_have_the_room_that_open_sessions_leave():
    async def scenario(cluster):
        world = cluster.old.world
        world.limits = ClientLimits(max_sockets=2)
        first, second = await opened(cluster.old), await opened(cluster.old)
        for session in (first, second):
            session.detach()
        third = await opened(cluster.old, 1)
        there = await resumed(cluster.old, second)
        assert there.earliest_chunk == 0
        assert (await resumed(cluster.old, first)).earliest_chunk > 0
        third.close()

    run(scenario)


def test_a_session_that_has_ended_leaves_no_history():
    async def scenario(cluster):
        session = await opened(cluster.old)
        session.close()
        assert cluster.old.world.histories._kept == {}

    run(scenario)


def history(num_chunks, *, prompts=None):
    made = History(ORIGIN, prompt="snow", budget_bytes=2**20)
    for number in range(num_chunks):
        made.append(chunk(number).latents, ["w"], (prompts or {}).get(number), recache=True)
    return made


def handed_over(made):
    return made.snapshot(num_more=RESUMED_CHUNKS)


def test_a_history_goes_with_its_time():
    async def scenario():
        histories = DetachedHistories(ttl_s=0.01, num_free=lambda: 1)
        histories.keep("token", history(9))
        await until(lambda: not histories._kept)
        assert histories.take("token", handed_over(history(9))) is None

    asyncio.run(scenario())


def test_a_history_catches_up_with_prompts_and_all():
    grown, whole = history(9), history(11, prompts={10: "rain"})
    assert catch_up(grown, handed_over(whole))
    for index in (2, 10, 11):
        left, right = grown.snapshot(index), whole.snapshot(index)
        assert [one.index for one in left.chunks] == [one.index for one in right.chunks]
        assert (left.prompt, left.journal, left.pitch) == (right.prompt, right.journal, right.pitch)
        assert [one.prompt for one in left.chunks] == [one.prompt for one in right.chunks]


def other_latents(snapshot):
    *before, last = snapshot.chunks
    return replace(snapshot, chunks=(*before, replace(last, latents=np.ones_like(last.latents))))


@pytest.mark.parametrize(
    "handed",
    [
        handed_over(history(8)),
        handed_over(history(20)),
        history(0).snapshot(),
        other_latents(handed_over(history(9))),
        replace(handed_over(history(10)), journal=None),
    ],
    ids=["it was turned back", "it is far ahead", "it was reset", "it is another", "no journal"],
)
def test_a_history_of_another_course_is_not_used(handed):
    kept = history(9)
    assert not catch_up(kept, handed)
    assert kept.next_chunk == 9
