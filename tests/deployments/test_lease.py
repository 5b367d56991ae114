"""Queueing and endings of leases, on a stream that the test controls."""

import asyncio

import numpy as np
import pytest
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError

from deployments import lease as lease_module
from deployments.config import ServiceConfig
from deployments.lease import LeasedWorld, Readiness
from deployments.world_group import Lease
from deployments.world_rank import Refusal, SessionEnded
from transport.wire.errors import Busy, Refused, WorldFailed, WorldLost
from transport.wire.messages import Queued, Warming
from transport.wire.world import WorldSpec

SPEC = WorldSpec(prompt="", seed=1, width=1, height=1)
IMAGE = np.zeros((1, 1, 3), np.uint8)


class Remote:
    """An actor's method: begins a coroutine, whose end nobody has to wait for."""

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
        self.open = self.step = self.fetch = Remote(self.respond)
        self.touch = Remote(lambda session_id: None)

    async def respond(self, *args):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class FakeStream:
    """A lease call: gives what is put, raises it if it is an error, and notes its cancellation."""

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


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(lease_module, "NOTICE_S", 0.01)


def play(scenario, *, ready=True, **config):
    """Run ``scenario(world, group, news)``; ``ready`` may be a list of answers."""

    async def run():
        group, news = FakeGroup(), []
        world = LeasedWorld(group, None, ServiceConfig(**config))
        answers = iter(ready) if isinstance(ready, list) else None

        async def ask():
            return next(answers, True) if answers else ready

        world._readiness.ask = ask
        await asyncio.wait_for(scenario(world, group, news), 5)

    asyncio.run(run())


async def begin(world, group, news):
    """A client that opens a world; returns its task once its lease call is out."""

    async def on_wait(message):
        news.append(message)

    before = len(group.streams)
    opening = asyncio.create_task(world.open(SPEC, IMAGE, on_wait=on_wait))
    while len(group.streams) == before:
        await asyncio.sleep(0)
    return opening


def test_a_waiting_client_hears_where_it_stands():
    async def scenario(world, group, news):
        first, second = [await begin(world, group, []), await begin(world, group, news)]
        while not news:
            await asyncio.sleep(0.01)
        assert news[0] == Queued(2)
        group.streams[0].items.put_nowait(Lease("a", FakeRank()))
        await first
        while news[-1] != Queued(1):
            await asyncio.sleep(0.01)
        group.streams[1].items.put_nowait(Lease("b", FakeRank()))
        assert (await second).id == "b"

    play(scenario)


def test_the_queue_has_its_own_patience_after_a_long_warm_up():
    async def scenario(world, group, news):
        opening = await begin(world, group, news)
        while Queued(1) not in news:
            await asyncio.sleep(0.01)
        assert news[0] == Warming() and not opening.done()
        group.streams[0].items.put_nowait(Lease("a", FakeRank()))
        await opening

    play(scenario, ready=[False] * 20, queue_timeout_s=0.15, warm_up_timeout_s=60)


@pytest.mark.parametrize("ready, reason", [(True, "taken"), (False, "still warming up")])
def test_patience_ends_with_busy_and_leaves_nothing(ready, reason):
    async def scenario(world, group, news):
        with pytest.raises(Busy, match=reason):
            await (await begin(world, group, news))
        assert group.streams[0].cancelled and not world._waiting

    play(scenario, ready=ready, queue_timeout_s=0.03, warm_up_timeout_s=0.03)


@pytest.mark.parametrize(
    "failure, expected",
    [
        (BackPressureError(8, 8), Busy),
        (RayError("died"), WorldLost),
        (StopAsyncIteration(), WorldLost),
    ],
)
def test_a_lease_that_fails_says_why(failure, expected):
    async def scenario(world, group, news):
        opening = await begin(world, group, news)
        group.streams[0].items.put_nowait(failure)
        with pytest.raises(expected):
            await opening
        assert group.streams[0].cancelled

    play(scenario)


def test_a_client_that_leaves_while_it_waits_leaves_nothing():
    async def scenario(world, group, news):
        opening = await begin(world, group, news)
        opening.cancel()
        await asyncio.wait([opening])
        assert group.streams[0].cancelled and not world._waiting

    play(scenario)


async def opened(world, group, answer=None):
    opening = await begin(world, group, [])
    rank = FakeRank()
    group.streams[-1].items.put_nowait(Lease("a", rank))
    session = await opening
    rank.answer = answer
    return session


def test_what_the_rank_refuses_is_refused():
    async def scenario(world, group, news):
        opening = await begin(world, group, [])
        group.streams[0].items.put_nowait(Lease("a", FakeRank(Refusal("too big", "size"))))
        with pytest.raises(Refused, match="too big") as refused:
            await opening
        assert refused.value.field == "size" and group.streams[0].cancelled

    play(scenario)


def task_error():
    from ray.exceptions import RayTaskError

    return RayTaskError("step", "Traceback of the rank", ValueError("a secret"))


@pytest.mark.parametrize(
    "failure, expected, words",
    [
        (SessionEnded("a"), WorldLost, "has ended"),
        (RayError("gone"), WorldLost, "died"),
        (task_error(), WorldFailed, "^the world failed$"),
    ],
)
def test_a_step_that_fails_says_why(failure, expected, words):
    async def scenario(world, group, news):
        session = await opened(world, group, failure)
        with pytest.raises(expected, match=words):
            await session.step(["w"], prompt=None, time_to_underrun_s=0)
        session.close()

    play(scenario)


def test_pictures_come_after_their_step_and_may_be_left_alone():
    async def scenario(world, group, news):
        session = await opened(world, group, "pictures")
        assert await (await session.step(["w"], prompt=None, time_to_underrun_s=0)) == "pictures"
        session._rank.fetch = Remote(lambda *args: asyncio.Event().wait())
        on_their_way = await session.step(["w"], prompt=None, time_to_underrun_s=0)
        session._rank.fetch = Remote(session._rank.respond)
        session._rank.answer = None
        await session.step(["w"], prompt=None, time_to_underrun_s=0)
        session.close()
        with pytest.raises(asyncio.CancelledError):
            await on_their_way

    play(scenario)


def test_a_step_that_hangs_is_given_up():
    async def scenario(world, group, news):
        session = await opened(world, group)
        session._rank.step = Remote(lambda *args: asyncio.Event().wait())
        with pytest.raises(WorldLost, match=r"did not answer for 0\.05 s"):
            await session.step(["w"], prompt=None, time_to_underrun_s=0)
        session.close()

    play(scenario, step_timeout_s=0.05)


@pytest.mark.parametrize(
    "ending, reason", [(StopAsyncIteration(), "has ended"), (RayError("gone"), "died")]
)
def test_the_end_of_a_lease_is_told(ending, reason):
    async def scenario(world, group, news):
        session = await opened(world, group)
        group.streams[0].items.put_nowait(ending)
        assert reason in await session.lost()
        session.close()
        assert group.streams[0].cancelled

    play(scenario)


def test_the_controller_is_asked_once_for_all(monkeypatch):
    asked = []
    monkeypatch.setattr(lease_module, "is_running", lambda name: asked.append(name) or True)

    async def scenario():
        readiness = Readiness("WorldGroup")
        return await asyncio.gather(*(readiness.ask() for _ in range(20)))

    assert asyncio.run(scenario()) == [True] * 20
    assert asked == ["WorldGroup"]
