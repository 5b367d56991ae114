"""Clients that wait for leases, on a stream that the test controls."""

import asyncio

import pytest
from msgspec.structs import replace
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
)

from deployments.sessions.admission import Demand
from deployments.sessions.lease_reply import AskAgain, Full, Waiting
from deployments.world_group import Lease
from tests.deployments.fakes import (
    IMAGE,
    SPEC,
    FakeRank,
    run,
    start_opening,
)
from tests.waiting import until
from transport.wire.errors import Busy, Refused, WorldFailed, WorldLost
from transport.wire.messages import Queued, Starting


def answer(group, *replies):
    """Let the newest lease call yield these."""
    for reply in replies:
        group.streams[-1].items.put_nowait(reply)


def test_a_waiting_client_gets_its_position_in_the_groups_line():
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        for place, told in ((Waiting(2), (2, True)), (Waiting(1, 40), (1, True, 40))):
            answer(group, place)
            await until(lambda told=told: messages and messages[-1] == Queued(*told))
        answer(group, Lease(session_id="a", rank=FakeRank()))
        assert (await opening).id == "a"

    run(scenario)


def test_a_request_names_all_that_its_admission_depends_on():
    async def scenario(world, group, messages):
        asked = {"width": 32, "height": 16, "window": 6, "num_steps": 8, "realtime": False}
        spec = replace(SPEC, **asked)
        now = asyncio.get_running_loop().time
        began = now()
        opening = await start_opening(world, group, messages, spec=spec)
        waited_s = group.demands[0].waited_s
        assert 0 <= waited_s <= now() - began
        assert group.demands[0] == Demand(**asked, waited_s=waited_s)
        answer(group, Lease(session_id="a", rank=FakeRank()))
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
        assert demand.waited_s >= 0.05
        known = ("one", "kept") if reply is ASK_AGAIN else (None, None)
        assert (demand.last_group, demand.place) == known
        assert demand.gives_way is (reply is not ASK_AGAIN)
        answer(group, Lease(session_id="a", rank=FakeRank()))
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
        await until(lambda: len(messages) > 20)  # one in 10 ms: its queue clock would be over
        assert set(messages) == {Starting()}
        world._readiness.is_adding = False
        with pytest.raises(Busy, match="taken"):
            await opening
        assert messages[-1] == Queued(1, all_taken=True)

    run(scenario, is_adding=True, queue_timeout_s=0.1, warm_up_timeout_s=60)


@pytest.mark.parametrize("freed", [False, True], ids=["it waits", "a place was freed"])
def test_a_client_that_waits_gets_no_world_of_a_server_that_closes(freed):
    async def scenario(world, group, messages):
        opening, rank = await start_opening(world, group, messages), FakeRank()
        answer(group, Waiting(1))
        await until(lambda: messages)
        world.close("the server stops")
        if freed:
            answer(group, Lease(session_id="a", rank=rank))
        with pytest.raises(WorldLost, match="the server stops"):
            await opening
        assert group.streams[0].cancelled and rank.calls == []

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
        answer(group, Lease(session_id="a", rank=FakeRank()))
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
