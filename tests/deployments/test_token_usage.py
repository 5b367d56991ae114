"""The counts of all replicas, without a cluster; `test_access.py` has them on one."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException, RequestCancelledError

from deployments import token_usage
from deployments.token_usage import ClusterUsage, Refusal, TokenUsage
from tests.deployments import fakes
from tests.deployments.fakes import FakeStream, Remote
from transport.access_config import TokenLimits
from transport.tokens import Token
from transport.wire.errors import Busy

LIMITS = TokenLimits(max_sessions=1, opens_per_minute=3)
ALICE = Token("token alice", LIMITS, b"")


class FakeHandle:
    """Notes its calls; `streams` are their answers."""

    def __init__(self):
        self.calls, self.streams, self.failures = [], [], []
        self.hold = Remote(self.call)

    def options(self, **options):
        assert options == {"stream": True, "_by_reference": False}
        return self

    def call(self, *args):
        if self.failures:
            raise self.failures.pop()
        self.calls.append(args)
        self.streams.append(fakes.FakeStream())
        return self.streams[-1]

    async def answer(self, item):
        """Answer the newest call."""
        while not self.streams:
            await asyncio.sleep(0)
        self.streams[-1].items.put_nowait(item)


@asynccontextmanager
async def counted_session(handle):
    answering = asyncio.create_task(handle.answer(None))
    async with ClusterUsage(handle).hold(ALICE, "session"):
        await answering
        yield


def test_a_held_session_is_one_call_that_is_cancelled_at_its_end():
    async def scenario():
        handle = FakeHandle()
        async with counted_session(handle):
            assert handle.calls == [("token alice", "session", LIMITS, False)]
            assert not handle.streams[0].cancelled
        assert handle.streams[0].cancelled

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "item, timeout_s, text, retry_after_s",
    [
        (Refusal("enough", 7), 60, "enough", 7),
        (RayActorError(), 0.1, "what this token uses is not known yet", 5),  # and no other comes
    ],
)
def test_a_refusal_and_a_dead_counter_are_busy(item, timeout_s, text, retry_after_s):
    async def scenario():
        handle = FakeHandle()
        answering = asyncio.create_task(handle.answer(item))
        with pytest.raises(Busy, match=text) as refused:
            async with ClusterUsage(handle, timeout_s=timeout_s).hold(ALICE, "session"):
                pytest.fail("it was let in")
        await answering
        assert refused.value.retry_after_s == retry_after_s
        assert handle.streams[0].cancelled

    asyncio.run(scenario())


def test_a_counter_that_is_replaced_meanwhile_counts(monkeypatch):
    monkeypatch.setattr(token_usage, "RETRY_S", 0)

    async def scenario():
        handle = FakeHandle()

        async def answer():
            await handle.answer(RayActorError())
            while len(handle.streams) == 1:
                await asyncio.sleep(0)
            await handle.answer(None)

        answering = asyncio.create_task(answer())
        async with ClusterUsage(handle).hold(ALICE, "session"):
            await answering
            assert handle.calls == [("token alice", "session", LIMITS, False)] * 2

    asyncio.run(scenario())


def test_a_counter_that_does_not_answer_is_busy():
    async def scenario():
        handle = FakeHandle()
        with pytest.raises(Busy, match="not known yet"):
            async with ClusterUsage(handle, timeout_s=0.01).hold(ALICE, "session"):
                pytest.fail("it was let in")
        assert handle.streams[0].cancelled

    asyncio.run(scenario())


def test_a_client_that_leaves_while_it_waits_is_not_counted():
    async def scenario():
        handle = FakeHandle()

        async def enter():
            async with ClusterUsage(handle).hold(ALICE, "session"):
                pytest.fail("it was let in")

        entering = asyncio.create_task(enter())
        while not handle.streams:
            await asyncio.sleep(0)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert handle.streams[0].cancelled

    asyncio.run(scenario())


def test_calls_that_cannot_be_made_are_busy():
    async def scenario():
        handle = FakeHandle()
        handle.failures = [RayServeException("no router")] * 9
        with pytest.raises(Busy, match="not known yet"):
            async with ClusterUsage(handle, timeout_s=0.01).hold(ALICE, "session"):
                pytest.fail("it was let in")

    asyncio.run(scenario())


def test_a_new_counter_is_told_again_when_a_call_to_it_failed(monkeypatch):
    monkeypatch.setattr(token_usage, "RETRY_S", 0)

    async def scenario():
        handle = FakeHandle()
        async with counted_session(handle):
            handle.failures = [RayServeException("no router")]
            handle.streams[0].items.put_nowait(RayActorError())
            async with asyncio.timeout(5):
                while len(handle.streams) == 1:
                    await asyncio.sleep(0)
        assert handle.calls[-1][-1] is True and handle.streams[-1].cancelled

    asyncio.run(scenario())


def test_a_new_counter_is_told_what_is_held(monkeypatch):
    monkeypatch.setattr(token_usage, "RETRY_S", 0)

    async def scenario():
        handle = FakeHandle()
        async with counted_session(handle):
            for number in (1, 2):
                handle.streams[-1].items.put_nowait(RayActorError())
                while len(handle.calls) == number:
                    await asyncio.sleep(0)
                assert handle.calls[-1] == ("token alice", "session", LIMITS, True)
        assert handle.streams[-1].cancelled
        await asyncio.sleep(0.01)
        assert len(handle.calls) == 3

    asyncio.run(scenario())


def test_a_session_that_has_ended_is_not_told_to_a_new_counter(monkeypatch):
    """Ray's streams turn the cancellation of their reader into an error."""
    monkeypatch.setattr(token_usage, "RETRY_S", 0)

    class RayStream(FakeStream):
        async def __anext__(self):
            try:
                return await super().__anext__()
            except asyncio.CancelledError as exc:
                raise RequestCancelledError from exc

    monkeypatch.setattr(fakes, "FakeStream", RayStream)

    async def scenario():
        handle = FakeHandle()
        async with counted_session(handle):
            await asyncio.sleep(0.01)  # it reads the stream
        await asyncio.sleep(0.01)
        assert len(handle.calls) == 1

    asyncio.run(scenario())


def test_the_deployment_counts_until_the_caller_is_gone():
    async def scenario():
        usage = TokenUsage()

        def hold(resumed=False):
            return usage.hold("token alice", "session", LIMITS, resumed)

        first = hold()
        assert await anext(first) is None
        refused = hold()
        assert await anext(refused) == Refusal("this token may have 1 sessions at once", 5)
        with pytest.raises(StopAsyncIteration):
            await anext(refused)
        resumed = hold(resumed=True)
        assert await anext(resumed) is None
        await first.aclose()
        assert isinstance(await anext(hold()), Refusal)
        await resumed.aclose()
        third = hold()
        assert await anext(third) is None
        waiting = asyncio.ensure_future(anext(third))
        await asyncio.sleep(0)
        waiting.cancel()  # as Serve cancels a call whose caller is gone
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await anext(hold()) is None

    asyncio.run(scenario())
