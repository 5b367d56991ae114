"""Waiting for leases and their ends, on a stream that the test controls."""

import asyncio

import numpy as np
import pytest
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from deployments.config import ServiceConfig
from deployments.lease import LeasedWorld
from deployments.world_group import Lease
from deployments.world_rank import Refusal, SessionEnded
from transport.wire.errors import Busy, Refused, WorldFailed, WorldLost
from transport.wire.messages import Queued, Warming
from transport.wire.world import WorldSpec

SPEC = WorldSpec(prompt="", seed=1, width=1, height=1)
IMAGE = np.zeros((1, 1, 3), np.uint8)


class Remote:
    """An actor's method: starts a coroutine, which nothing has to await."""

    def __init__(self, call):
        self.call = call

    def remote(self, *args):
        result = self.call(*args)
        if asyncio.iscoroutine(result):
            result = asyncio.ensure_future(result)
            result.add_done_callback(lambda done: done.cancelled() or done.exception())
        return result


class FakeRank:
    def __init__(self, answer=None):
        self.answer = answer
        self.open = self.step = self.fetch_frames = Remote(self.respond)
        self.touch = Remote(lambda session_id: None)

    async def respond(self, *args):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class FakeStream:
    """A lease call: yields the items put, raises those that are errors, notes its cancellation."""

    def __init__(self):
        self.items, self.cancelled = asyncio.Queue(), False

    def __aiter__(self):
        return self

    async def __anext__(self):
        item = await self.items.get()
        if isinstance(item, Exception):
            raise item
        return item

    def cancel(self):
        self.cancelled = True


class FakeGroup:
    deployment_name = "WorldGroup"

    def __init__(self):
        self.streams = []
        self.lease = Remote(self.call)

    def options(self, **options):
        return self

    def call(self):
        self.streams.append(FakeStream())
        return self.streams[-1]


class FakeReadiness:
    """Gives its answers one after the other, then repeats the last."""

    def __init__(self, answers):
        self.answers = list(answers)

    async def ask(self):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def run(scenario, *, ready=(True,), **config):
    """Run `scenario(world, group, messages)`. `ready` lists the answers about the group."""

    async def run_in_loop():
        group = FakeGroup()
        readiness = FakeReadiness(ready)
        world = LeasedWorld(
            group, None, ServiceConfig(**config), readiness=readiness, notice_period_s=0.01
        )
        await asyncio.wait_for(scenario(world, group, []), 5)

    asyncio.run(run_in_loop())


async def start_opening(world, group, messages):
    """A client that opens a world; returns its task after its lease call was sent."""

    async def on_wait(message):
        messages.append(message)

    before = len(group.streams)
    opening = asyncio.create_task(world.open(SPEC, IMAGE, on_wait=on_wait))
    while len(group.streams) == before:
        await asyncio.sleep(0)
    return opening


def test_a_waiting_client_gets_its_position():
    async def scenario(world, group, messages):
        first, second = [
            await start_opening(world, group, []),
            await start_opening(world, group, messages),
        ]
        while not messages:
            await asyncio.sleep(0.01)
        assert messages[0] == Queued(2)
        group.streams[0].items.put_nowait(Lease("a", FakeRank()))
        await first
        while messages[-1] != Queued(1):
            await asyncio.sleep(0.01)
        group.streams[1].items.put_nowait(Lease("b", FakeRank()))
        assert (await second).id == "b"

    run(scenario)


def test_the_queue_clock_starts_after_a_long_warm_up():
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        while Queued(1) not in messages:
            await asyncio.sleep(0.01)
        assert messages[0] == Warming() and not opening.done()
        group.streams[0].items.put_nowait(Lease("a", FakeRank()))
        await opening

    run(scenario, ready=[False] * 20 + [True], queue_timeout_s=0.15, warm_up_timeout_s=60)


def test_a_client_hears_why_serve_gave_up_while_it_waits():
    async def scenario(world, group, messages):
        with pytest.raises(WorldFailed, match="no folder"):
            await (await start_opening(world, group, messages))
        assert messages == [Warming()]
        assert group.streams[0].cancelled and not len(world._line)

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
        with pytest.raises(Busy, match=reason):
            await (await start_opening(world, group, messages))
        assert group.streams[0].cancelled and not len(world._line)

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
        assert group.streams[0].cancelled and not len(world._line)

    run(scenario)


async def opened(world, group, answer=None):
    opening = await start_opening(world, group, [])
    rank = FakeRank()
    group.streams[-1].items.put_nowait(Lease("a", rank))
    session = await opening
    rank.answer = answer
    return session


def test_a_spec_that_the_rank_refuses_is_refused():
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, [])
        group.streams[0].items.put_nowait(Lease("a", FakeRank(Refusal("too big", "size"))))
        with pytest.raises(Refused, match="too big") as refused:
            await opening
        assert refused.value.field == "size" and group.streams[0].cancelled

    run(scenario)


def task_error():
    from ray.exceptions import RayTaskError

    return RayTaskError("step", "Traceback of the rank", ValueError("a secret"))


@pytest.mark.parametrize(
    "failure, expected, text",
    [
        (SessionEnded("a"), WorldLost, "has ended"),
        (RayError("gone"), WorldLost, "died"),
        (task_error(), WorldFailed, "^the world failed$"),
    ],
)
def test_a_step_that_fails_raises_its_reason(failure, expected, text):
    async def scenario(world, group, messages):
        session = await opened(world, group, failure)
        with pytest.raises(expected, match=text):
            await session.step(["w"], prompt=None, time_to_underrun_s=0)
        session.close()

    run(scenario)


def test_frames_come_after_their_step_and_need_not_be_awaited():
    async def scenario(world, group, messages):
        session = await opened(world, group, "frames")
        assert await (await session.step(["w"], prompt=None, time_to_underrun_s=0)) == "frames"
        session._rank.fetch_frames = Remote(lambda *args: asyncio.Event().wait())
        pending = await session.step(["w"], prompt=None, time_to_underrun_s=0)
        session._rank.fetch_frames = Remote(session._rank.respond)
        session._rank.answer = None
        await session.step(["w"], prompt=None, time_to_underrun_s=0)
        session.close()
        with pytest.raises(asyncio.CancelledError):
            await pending

    run(scenario)


def test_a_step_that_hangs_raises_after_its_timeout():
    async def scenario(world, group, messages):
        session = await opened(world, group)
        session._rank.step = Remote(lambda *args: asyncio.Event().wait())
        with pytest.raises(WorldLost, match=r"did not answer for 0\.05 s"):
            await session.step(["w"], prompt=None, time_to_underrun_s=0)
        session.close()

    run(scenario, step_timeout_s=0.05)


@pytest.mark.parametrize(
    "ending, reason", [(StopAsyncIteration(), "has ended"), (RayError("gone"), "died")]
)
def test_the_end_of_a_lease_has_a_reason(ending, reason):
    async def scenario(world, group, messages):
        session = await opened(world, group)
        group.streams[0].items.put_nowait(ending)
        assert reason in await session.lost()
        session.close()
        assert group.streams[0].cancelled

    run(scenario)
