"""A client resumes on another transport while its old one has not noticed that the socket is lost.

Whatever the old transport does then, and whenever it hears of it, no world is there twice.
"""

import asyncio

import pytest
from ray.exceptions import RayError

from tests.deployments.fakes import IMAGE
from tests.deployments.two_transports import run
from tests.deployments.walking import RESUMABLE, start_step, walk
from tests.waiting import until
from transport.wire.errors import SessionGone, TakenOver, WorldLost


@pytest.fixture(autouse=True)
def any_snapshot(monkeypatch):
    monkeypatch.setattr("deployments.saved_world.check_snapshot", lambda snapshot, config: None)
    monkeypatch.setattr("deployments.mover.GIVE_UP_DELAY_S", 0.01)


async def ignore(status):
    """A client that waits."""


async def opened(cluster, num_chunks=3):
    """A session of the old transport, which hears nothing more of its group."""
    session = await cluster.old.world.open(RESUMABLE, IMAGE, on_wait=ignore)
    await walk(session, *range(num_chunks))
    cluster.old.heard.clear()
    return session


async def resumed(cluster, token):
    session, _ = await cluster.new.world.resume(token, on_wait=ignore)
    return session


async def noticed(*sessions):
    """Returns once these have lost their group, before they find another one."""
    while not all(session._mover._is_lost for session in sessions):
        await asyncio.sleep(0)


@pytest.mark.parametrize("others", [("b",), ()], ids=["another group", "no other group"])
def test_a_world_that_leaves_a_group_is_counted_there_as_moved(others):
    async def scenario(cluster):
        session = await cluster.old.world.open(RESUMABLE, IMAGE, on_wait=ignore)
        await walk(session, 0)
        cluster.old.know(*others)
        await until(lambda: cluster.ranks["a"].sessions.registry.ends)
        cluster.old.know("b")
        await walk(session, 1)
        assert [one for one, _ in cluster.live()] == ["b"]
        assert cluster.ranks["a"].sessions.registry.ends == {"moved": 1}
        session.close()
        assert cluster.ranks["b"].sessions.registry.ends == {"closed": 1}

    run(scenario)


async def step_on(cluster, session):
    with pytest.raises(TakenOver):
        await start_step(session)


async def rewind(cluster, session):
    with pytest.raises(TakenOver):
        await session.rewind(1)


async def hear_that_the_group_drains(cluster, session):
    cluster.old.know("b")
    with pytest.raises(TakenOver):
        await session.lost()


async def hear_that_no_group_runs(cluster, session):
    cluster.old.know()
    with pytest.raises(TakenOver):
        await session.lost()


async def hear_of_the_other(cluster, session):
    cluster.old.heard.set()
    with pytest.raises(TakenOver):
        await session.lost()


async def lose_the_lease_call(cluster, session):
    cluster.old.streams[0].break_off(RayError("the connection is lost"))
    with pytest.raises(TakenOver):
        await session.lost()


async def drain(cluster, session):
    session.detach()


async def notice_the_socket_in_a_step(cluster, session):
    """The step has failed, and the reason is not known yet."""
    stepping = asyncio.create_task(start_step(session))
    await until(lambda: session._mover._is_lost)
    session.detach()
    with pytest.raises((WorldLost, TakenOver)):
        await stepping


EVENTS = [
    step_on,
    rewind,
    hear_that_the_group_drains,
    hear_that_no_group_runs,
    hear_of_the_other,
    lose_the_lease_call,
    drain,
    notice_the_socket_in_a_step,
]


@pytest.mark.parametrize("where", ["its group runs", "its group drains"])
@pytest.mark.parametrize("event", EVENTS)
def test_a_world_that_was_resumed_elsewhere_is_there_once(event, where):
    async def scenario(cluster):
        old = await opened(cluster)
        token = old.resume_token
        if where == "its group drains":
            cluster.new.know("b")
        new = await resumed(cluster, token)
        assert new.chunk_index == 3
        await event(cluster, old)
        old.detach()  # as its connection does in the end, with this error and with any other
        await cluster.old.world.finish()
        await cluster.new.world.finish()
        assert [session for _, session in cluster.live()] == [new.id]
        assert cluster.num_stored() == 0
        await walk(new, 3, 4)
        steps = cluster.ranks["a"].stepped + cluster.ranks["b"].stepped
        assert [number for *_, number in steps] == [0, 1, 2, 3, 4]
        new.close()
        with pytest.raises(SessionGone):
            await resumed(cluster, token)
        assert cluster.live() == []
        assert cluster.resumes == ["attached" if "runs" in where else "handed_over", "gone"]

    run(scenario)


@pytest.mark.parametrize("news", ["on its way", "sent into the lost socket"])
@pytest.mark.parametrize("num_moves", [1, 2])
def test_an_older_token_leads_to_a_world_that_has_moved_meanwhile(news, num_moves):
    async def scenario(cluster):
        old = await opened(cluster)
        token = old.resume_token
        for group in "ba"[:num_moves]:
            cluster.old.know(group)
            await until(
                lambda group=group: cluster.live()[0][0] == group and len(cluster.live()) == 1
            )
            await walk(old, old.chunk_index)
            if news != "on its way":
                old.take_notices()
        await cluster.old.world.finish()
        new = await resumed(cluster, token)
        assert new.chunk_index == 3 + num_moves and cluster.resumes == ["attached"]
        await step_on(cluster, old)
        old.detach()
        await cluster.old.world.finish()
        assert [session for _, session in cluster.live()] == [new.id]
        new.close()
        with pytest.raises(SessionGone):
            await resumed(cluster, token)

    run(scenario)


@pytest.mark.parametrize("last", ["the old one", "the new one"])
def test_of_two_sockets_that_are_lost_with_their_group_the_later_one_has_the_world(last):
    async def scenario(cluster):
        old = await opened(cluster)
        new = await resumed(cluster, token := old.resume_token)
        await walk(new, 3, 4)
        await cluster.new.world.finish()
        cluster.die("a")
        await noticed(old, new)
        worlds = {"the old one": [new, old], "the new one": [old, new]}
        for session in worlds[last]:
            session.detach()
            await cluster.old.world.finish()
            await cluster.new.world.finish()
        third = await resumed(cluster, token)
        assert third.chunk_index == 5 and cluster.num_stored() == 0
        third.close()
        with pytest.raises(SessionGone):
            await resumed(cluster, token)
        assert cluster.resumes == ["attached", "stored", "gone"]

    run(scenario)


@pytest.mark.parametrize("where", ["its group drains", "the store"])
def test_a_token_opens_its_world_until_a_client_has_the_newer_one(where):
    async def scenario(cluster):
        old = await opened(cluster)
        token = old.resume_token
        if where == "its group drains":
            cluster.new.know("b")
        else:
            cluster.die("a")
            await noticed(old)
            old.detach()
            await cluster.old.world.finish()
        for _ in range(3):  # each socket is lost before its client knows the token of `new`
            new = await resumed(cluster, token)
            assert new.chunk_index == 3 and new.resume_token != token
            new.detach()
            await cluster.new.world.finish()
        taken = "handed_over" if where == "its group drains" else "stored"
        assert cluster.resumes == [taken, "attached", "attached"]
        assert [group for group, _ in cluster.live()] == ["b"] and cluster.num_stored() == 0

    run(scenario)
