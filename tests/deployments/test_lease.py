"""Waiting for leases and their ends, on a stream that the test controls."""

import asyncio

import pytest
from msgspec.structs import fields, replace
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
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
from transport.wire.errors import Busy, Refused, WorldFailed, WorldLost
from transport.wire.messages import Queued, Starting, WarningMessage


def answer(group, *replies):
    """Let the newest lease call yield these."""
    for reply in replies:
        group.streams[-1].items.put_nowait(reply)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def test_a_waiting_client_gets_its_position_in_the_groups_line():
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        for place, told in ((Waiting(2), (2, True)), (Waiting(1, 40), (1, True, 40))):
            answer(group, place)
            await until(lambda told=told: messages and messages[-1] == Queued(*told))
        answer(group, Lease("a", FakeRank()))
        assert (await opening).id == "a"

    run(scenario)


def test_a_request_names_all_that_its_admission_depends_on():
    async def scenario(world, group, messages):
        asked = {"width": 32, "height": 16, "window": 6, "num_steps": 8, "realtime": False}
        spec = replace(SPEC, **asked)
        opening = await start_opening(world, group, messages, spec=spec)
        assert group.demands[0] == Demand(**asked, waited_s=pytest.approx(0, abs=0.1))
        answer(group, Lease("a", FakeRank()))
        await opening

    run(scenario)


ASK_AGAIN = AskAgain("one", "kept")


@pytest.mark.parametrize("reply", [ASK_AGAIN, RayActorError()], ids=["asked to", "it died"])
def test_a_client_asks_again_and_keeps_its_place(reply):
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        answer(group, Waiting(1))
        await asyncio.sleep(0.05)
        answer(group, reply)
        await until(lambda: len(group.streams) == 2)
        demand = group.demands[1]
        assert 0.05 <= demand.waited_s < 2
        known = ("one", "kept") if reply is ASK_AGAIN else (None, None)
        assert (demand.last_group, demand.place) == known
        assert demand.gives_way is (reply is not ASK_AGAIN)
        answer(group, Lease("a", FakeRank()))
        assert (await opening).id == "a"
        assert not group.streams[1].cancelled

    run(scenario)


def test_a_full_line_is_busy_with_the_time_to_come_back():
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        answer(group, Full("every world is taken, and 32 clients wait", 90))
        with pytest.raises(Busy, match="32 clients wait") as busy:
            await opening
        assert busy.value.retry_after_s == 90 and group.streams[0].cancelled

    run(scenario)


def test_a_client_waits_for_a_group_that_is_being_added_and_its_queue_clock_stands_still():
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        answer(group, Waiting(1))
        await asyncio.sleep(0.3)
        assert set(messages) == {Starting()}
        world._readiness.is_adding = False
        with pytest.raises(Busy, match="taken"):
            await opening
        assert messages[-1] == Queued(1, all_taken=True)

    run(scenario, is_adding=True, queue_timeout_s=0.1, warm_up_timeout_s=60)


def test_a_paused_session_tells_its_rank():
    async def scenario(world, group, messages):
        session = await opened(world, group)
        session.pause()
        assert session._mover.lease._rank.paused == ["a"]
        session.close()

    run(scenario)


@pytest.mark.parametrize("freed", [False, True], ids=["it waits", "a place was freed"])
def test_a_client_that_waits_gets_no_world_of_a_server_that_closes(freed):
    async def scenario(world, group, messages):
        opening, rank = await start_opening(world, group, messages), FakeRank()
        answer(group, Waiting(1))
        await until(lambda: messages)
        world.close("the server stops")
        if freed:
            answer(group, Lease("a", rank))
        with pytest.raises(WorldLost, match="the server stops"):
            await opening
        assert group.streams[0].cancelled and rank.calls == []

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


def test_a_client_that_gives_up_leaves_no_lease_call():
    async def scenario(world, group, messages):
        async def give_up(message):
            raise Refused("no patience", close_code=1008)

        with pytest.raises(Refused, match="no patience"):
            await world.open(SPEC, IMAGE, on_wait=give_up)
        assert group.streams[0].cancelled

    run(scenario)


def test_the_queue_clock_starts_after_a_long_warm_up():
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        await until(lambda: world._readiness.answers == [True])
        answer(group, Waiting(1))
        await until(lambda: Queued(1, all_taken=True) in messages)
        assert messages[0] == Starting() and not opening.done()
        answer(group, Lease("a", FakeRank()))
        await opening

    run(scenario, ready=[False] * 20 + [True], queue_timeout_s=0.15, warm_up_timeout_s=60)


def test_a_client_hears_why_serve_gave_up_while_it_waits():
    async def scenario(world, group, messages):
        with pytest.raises(WorldFailed, match="no folder"):
            await (await start_opening(world, group, messages))
        assert messages == [Starting()]
        assert group.streams[0].cancelled

    run(scenario, ready=[False, WorldFailed("no folder /no/such")], warm_up_timeout_s=60)


def test_a_client_hears_why_serve_gave_up_before_it_came():
    """Serve refuses calls of a deployment that it has given up."""

    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        group.streams[0].items.put_nowait(DeploymentUnavailableError("WorldGroup"))
        with pytest.raises(WorldFailed, match="no folder"):
            await opening

    run(scenario, ready=[WorldFailed("no folder /no/such")])


@pytest.mark.parametrize("ready, reason", [(True, "taken"), (False, "still warming up")])
def test_a_client_that_gives_up_is_busy_and_leaves_nothing(ready, reason):
    async def scenario(world, group, messages):
        with pytest.raises(Busy, match=reason) as busy:
            await (await start_opening(world, group, messages))
        assert busy.value.retry_after_s == 30
        assert group.streams[0].cancelled

    run(scenario, ready=(ready,), queue_timeout_s=0.03, warm_up_timeout_s=0.03)


@pytest.mark.parametrize(
    "failure, expected",
    [
        (BackPressureError(8, 8), Busy),
        (RayError("died"), WorldLost),
        (StopAsyncIteration(), WorldLost),
    ],
)
def test_a_lease_that_fails_raises_its_reason(failure, expected):
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        group.streams[0].items.put_nowait(failure)
        with pytest.raises(expected):
            await opening
        assert group.streams[0].cancelled

    run(scenario)


def test_a_client_that_leaves_while_it_waits_leaves_nothing():
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        opening.cancel()
        await asyncio.wait([opening])
        assert group.streams[0].cancelled

    run(scenario)


async def opened(world, group, *replies, messages=None):
    """An open session, whose next call of the rank gets `replies`."""
    opening = await start_opening(world, group, [] if messages is None else messages)
    rank = FakeRank()
    group.streams[-1].items.put_nowait(Lease("a", rank))
    session = await opening
    rank.replies = replies or None
    return session


async def step(session):
    return await session.step(["w"], prompt=None, time_to_underrun_s=0)


def test_a_spec_that_the_rank_refuses_is_refused():
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, [])
        group.streams[0].items.put_nowait(Lease("a", FakeRank(Refusal("too big", "size"))))
        with pytest.raises(Refused, match="too big") as refused:
            await opening
        assert refused.value.field == "size" and group.streams[0].cancelled

    run(scenario)


def test_a_client_whose_open_is_queued_gets_its_position():
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        rank = FakeRank(Queued(2), Queued(1), OPENED)
        group.streams[0].items.put_nowait(Lease("a", rank))
        await opening
        assert messages == [Queued(2), Queued(1)]

    run(scenario)


def test_warnings_of_the_rank_are_kept_until_they_are_taken():
    first, second = (WarningMessage(text, "prompt_truncated", "prompt") for text in ("one", "two"))

    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        rank = FakeRank(first, Queued(1), OPENED)
        group.streams[-1].items.put_nowait(Lease("a", rank))
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
        group.streams[0].items.put_nowait(Lease("a", FakeRank(Queued(1), HANGS)))
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
            group.streams[-1].items.put_nowait(Lease("a", FakeRank(Queued(1), *replies)))
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
        group.streams[0].items.put_nowait(Lease("a", rank := FakeRank()))
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
