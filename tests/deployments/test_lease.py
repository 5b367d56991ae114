"""Leases that open sessions, and their ends, on a stream that the test controls."""

import asyncio

import pytest
from msgspec.structs import fields
from ray.exceptions import RayError
from ray.serve.exceptions import (
    RayServeException,
    RequestCancelledError,
)

from deployments.place import MAX_LOSSES
from deployments.refusal import Refusal
from deployments.sessions.admission import Demand
from deployments.sessions.lease_reply import AskAgain, Ended, Full, NotHere, Waiting
from deployments.world_group import Lease
from tests.deployments.fakes import (
    HANGS,
    IMAGE,
    OPENED,
    REQUEST,
    SPEC,
    FakeRank,
    chunk,
    run,
    start_opening,
)
from tests.waiting import until
from transport.wire.errors import Refused, WorldFailed, WorldLost
from transport.wire.messages import Queued, WarningMessage


async def opened(world, group, *replies, messages=None):
    """An open session, whose next call of the rank gets `replies`."""
    opening = await start_opening(world, group, [] if messages is None else messages)
    rank = FakeRank()
    group.streams[-1].items.put_nowait(Lease(session_id="a", rank=rank))
    session = await opening
    rank.replies = replies or None
    return session


async def step(session):
    return await session.step(["w"], prompt=None, time_to_underrun_s=0)


def test_a_spec_that_the_rank_refuses_is_refused():
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, [])
        rank = FakeRank(Refusal("too big", "size"))
        group.streams[0].items.put_nowait(Lease(session_id="a", rank=rank))
        with pytest.raises(Refused, match="too big") as refused:
            await opening
        assert refused.value.field == "size" and group.streams[0].cancelled

    run(scenario)


def test_a_client_whose_open_is_queued_gets_its_position():
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        rank = FakeRank(Queued(2), Queued(1), OPENED)
        group.streams[0].items.put_nowait(Lease(session_id="a", rank=rank))
        await opening
        assert messages == [Queued(2), Queued(1)]

    run(scenario)


def test_warnings_of_the_rank_are_kept_until_they_are_taken():
    first, second = (WarningMessage(text, "prompt_truncated", "prompt") for text in ("one", "two"))

    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        rank = FakeRank(first, Queued(1), OPENED)
        group.streams[-1].items.put_nowait(Lease(session_id="a", rank=rank))
        session = await opening
        assert (messages, session.take_notices()) == ([Queued(1)], [first])
        rank.replies = (second, None, chunk(0))
        assert (await (await step(session)) == chunk(0).frames).all()
        assert session.take_notices() == [second]
        assert session.take_notices() == []

    run(scenario)


def test_a_client_that_leaves_while_its_world_is_opened_leaves_nothing():
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        group.streams[0].items.put_nowait(Lease(session_id="a", rank=FakeRank(Queued(1), HANGS)))
        while not messages:
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled() and group.streams[0].cancelled

    run(scenario)


def task_error():
    from ray.exceptions import RayTaskError

    return RayTaskError("step", "Traceback of the rank", ValueError("a secret"))


FAILURES = [
    ([], WorldLost, "has ended", MAX_LOSSES + 1),
    ([RayError("gone")], WorldLost, "died", MAX_LOSSES + 1),
    ([task_error()], WorldFailed, "^the world failed$", 1),
    ([HANGS], WorldLost, r"did not answer for 0\.05 s", MAX_LOSSES + 1),
]


@pytest.mark.parametrize("replies, expected, text, tries", FAILURES)
def test_an_opening_that_fails_again_and_again_raises_its_reason(replies, expected, text, tries):
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, [])
        for number in range(tries):
            await until(lambda number=number: len(group.streams) > number)
            rank = FakeRank(Queued(1), *replies)
            group.streams[-1].items.put_nowait(Lease(session_id="a", rank=rank))
        with pytest.raises(expected, match=text):
            await opening
        assert len(group.streams) == tries and all(stream.cancelled for stream in group.streams)
        assert [demand.returning for demand in group.demands] == [False] + [True] * (tries - 1)

    run(scenario, step_timeout_s=0.05)


def test_a_call_that_cannot_be_made_is_a_lost_world():
    async def scenario(world, group, messages):
        def fail(demand):
            raise RayServeException("no router")

        group.lease.remote = fail
        with pytest.raises(WorldLost, match="died while it was opened"):
            await world.open(SPEC, IMAGE, on_wait=messages.append)

    run(scenario)


def test_frames_come_after_their_step_and_need_not_be_awaited():
    async def scenario(world, group, messages):
        session = await opened(world, group)
        first, second = await step(session), await step(session)
        del first
        assert (await second == chunk(1).frames).all()
        session.close()

    run(scenario)


def test_groups_and_ranks_are_called_outside_of_the_request():
    """Serve cancels the calls of a request when its client leaves."""

    async def scenario(world, group, messages):
        REQUEST.set("mine")
        session = await opened(world, group)
        await step(session)
        assert group.requests == [None] and session._mover.lease._rank.requests == [None, None]
        session.close()

    run(scenario)


def test_worlds_that_are_closed_tell_their_clients_the_reason_and_no_other_one_opens():
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        group.streams[0].items.put_nowait(Lease(session_id="a", rank=(rank := FakeRank())))
        session = await opening
        world.close(None)
        assert not group.streams[0].cancelled
        world.close("the server is shutting down")
        assert group.streams[0].cancelled
        group.streams[0].items.put_nowait(RequestCancelledError("a"))  # as Serve answers
        assert await session.lost() == "the server is shutting down"
        rank.replies = ()  # it has freed the session
        with pytest.raises(WorldLost, match="shutting down"):
            await session.step([], prompt=None, time_to_underrun_s=0.0)
        with pytest.raises(WorldLost, match="shutting down"):
            await world.open(SPEC, IMAGE, on_wait=messages.append)
        assert len(group.streams) == 1

    run(scenario)


FIRST_FIELDS = {  # those of the first version
    Waiting: ["position"],
    AskAgain: ["group_id"],
    Full: ["reason", "retry_after_s"],
    NotHere: ["group_id"],
    Ended: ["reason"],
    Lease: ["session_id", "rank"],
    Demand: ["width", "height"],
}


@pytest.mark.parametrize("message", FIRST_FIELDS)
def test_a_lease_call_understands_the_messages_of_an_older_version(message):
    """During an upgrade, groups and transports may have different code."""
    assert [one.name for one in fields(message) if one.required] == FIRST_FIELDS[message]


def test_a_paused_session_tells_its_rank():
    async def scenario(world, group, messages):
        session = await opened(world, group)
        session.pause()
        assert session._mover.lease._rank.paused == ["a"]
        session.close()

    run(scenario)


def test_the_client_hears_of_the_wait_of_a_suspended_session_for_its_memory():
    async def scenario(world, group, messages):
        replies = Queued(2), Queued(1), None, chunk(0)
        session = await opened(world, group, *replies, messages=messages)
        del messages[:]
        assert (await (await step(session)) == chunk(0).frames).all()
        assert messages == [Queued(2), Queued(1)]
        session.close()

    run(scenario)
