"""Waiting for leases and their ends, on a stream that the test controls."""

import asyncio
from contextvars import ContextVar

import numpy as np
import pytest
from msgspec.structs import replace
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from deployments.config import ServiceConfig
from deployments.encoded_prompt import EncodedPrompt
from deployments.lease import LeasedWorld
from deployments.world_group import Lease
from deployments.world_rank import Refusal
from transport.wire.errors import Busy, Refused, WorldFailed, WorldLost
from transport.wire.messages import Queued, Warming, WarningMessage
from transport.wire.world import WorldSpec

SPEC = WorldSpec(prompt="", seed=1, width=1, height=1)
IMAGE = np.zeros((1, 1, 3), np.uint8)


class Remote:
    """An actor's method."""

    def __init__(self, call):
        self.remote = call


REQUEST = ContextVar("REQUEST", default=None)  # as Serve and Ray mark the calls of a request


class FakeRank:
    """Streams its replies as Ray does: awaitables, of which errors raise. None ends a stream."""

    def __init__(self, *opening):
        self.replies = opening or (None,)
        self.open = self.step = Remote(self.respond)
        self.touch = Remote(lambda session_id: None)
        self.requests, self.calls = [], []

    def respond(self, *args):
        self.requests.append(REQUEST.get())
        self.calls.append(args)
        return self.stream(self.replies)

    async def stream(self, replies):
        for reply in replies:
            if reply is HANGS:
                await asyncio.Event().wait()
            future = asyncio.get_running_loop().create_future()
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)
            yield future


HANGS = object()


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
        self.streams, self.requests = [], []
        self.lease = Remote(self.call)

    def options(self, **options):
        return self

    def call(self):
        self.requests.append(REQUEST.get())
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


class FakePrompts:
    """Encodes a prompt as its number of characters once `gate` is set. Over ten are cut."""

    def __init__(self):
        self.asked, self.error, self.cancelled = [], None, 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def encode(self, prompt):
        self.asked.append(prompt)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        context = np.full((1, 4), len(prompt), np.float32)
        return EncodedPrompt(context, max(0, len(prompt) - 10))


def run(scenario, *, ready=(True,), prompts=None, **config):
    """Run `scenario(world, group, messages)`. `ready` lists the answers about the group.

    `prompts` builds the text encoder of a world whose ranks have none.
    """

    async def run_in_loop():
        group = FakeGroup()
        readiness = FakeReadiness(ready)
        world = LeasedWorld(
            group,
            None,
            ServiceConfig(**config),
            prompts=prompts and prompts(),
            readiness=readiness,
            notice_period_s=0.01,
        )
        await asyncio.wait_for(scenario(world, group, []), 5)

    asyncio.run(run_in_loop())


async def start_opening(world, group, messages, *, spec=SPEC):
    """A client that opens a world; returns its task after its lease call was sent."""

    async def on_wait(message):
        messages.append(message)

    before = len(group.streams)
    opening = asyncio.create_task(world.open(spec, IMAGE, on_wait=on_wait))
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
        assert messages[0] == Queued(2, all_taken=True)
        group.streams[0].items.put_nowait(Lease("a", FakeRank()))
        await first
        while messages[-1] != Queued(1, all_taken=True):
            await asyncio.sleep(0.01)
        group.streams[1].items.put_nowait(Lease("b", FakeRank()))
        assert (await second).id == "b"

    run(scenario)


def test_a_client_that_gives_up_leaves_no_lease_call():
    async def scenario(world, group, messages):
        async def give_up(message):
            raise Refused("no patience", close_code=1008)

        with pytest.raises(Refused, match="no patience"):
            await world.open(SPEC, IMAGE, on_wait=give_up)
        assert group.streams[0].cancelled
        opening = await start_opening(world, group, messages)
        while not messages:
            await asyncio.sleep(0.01)
        assert messages[0] == Queued(1, all_taken=True)
        group.streams[1].items.put_nowait(Lease("a", FakeRank()))
        await opening

    run(scenario)


def test_the_queue_clock_starts_after_a_long_warm_up():
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        while Queued(1, all_taken=True) not in messages:
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


async def opened(world, group, *replies):
    """An open session, whose next call of the rank gets `replies`."""
    opening = await start_opening(world, group, [])
    rank = FakeRank()
    group.streams[-1].items.put_nowait(Lease("a", rank))
    session = await opening
    rank.replies = replies
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
        rank = FakeRank(Queued(2), Queued(1), None)
        group.streams[0].items.put_nowait(Lease("a", rank))
        await opening
        assert messages == [Queued(2), Queued(1)]

    run(scenario)


def test_warnings_of_the_rank_are_kept_until_they_are_taken():
    first, second = (WarningMessage(text, "prompt_truncated", "prompt") for text in ("one", "two"))

    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages)
        rank = FakeRank(first, Queued(1), None)
        group.streams[-1].items.put_nowait(Lease("a", rank))
        session = await opening
        assert (messages, session.take_warnings()) == ([Queued(1)], [first])
        rank.replies = (second, None, IMAGE)
        assert (await (await step(session)) == IMAGE).all()
        assert session.take_warnings() == [second]
        assert session.take_warnings() == []

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
    ([], WorldLost, "has ended"),
    ([RayError("gone")], WorldLost, "died"),
    ([task_error()], WorldFailed, "^the world failed$"),
    ([HANGS], WorldLost, r"did not answer for 0\.05 s"),
]


@pytest.mark.parametrize("replies, expected, text", FAILURES)
@pytest.mark.parametrize("call", ["open", "step", "frames"])
def test_a_call_that_fails_raises_its_reason(call, replies, expected, text):
    async def scenario(world, group, messages):
        if call == "open":
            opening = await start_opening(world, group, [])
            group.streams[0].items.put_nowait(Lease("a", FakeRank(Queued(1), *replies)))
            with pytest.raises(expected, match=text):
                await opening
            assert group.streams[0].cancelled
            return
        session = await opened(world, group, *([None] if call == "frames" else []), *replies)
        pending = step(session) if call == "step" else await step(session)
        with pytest.raises(expected, match=text):
            await pending
        session.close()

    run(scenario, step_timeout_s=0.05)


def test_frames_come_after_their_step_and_need_not_be_awaited():
    async def scenario(world, group, messages):
        session = await opened(world, group, None, "frames")
        first, second = await step(session), await step(session)
        del first
        assert await second == "frames"
        session.close()

    run(scenario)


def test_groups_and_ranks_are_called_outside_of_the_request():
    """Serve cancels the calls of a request when its client leaves."""

    async def scenario(world, group, messages):
        REQUEST.set("mine")
        session = await opened(world, group, None, "frames")
        await step(session)
        assert group.requests == [None] and session._rank.requests == [None, None]
        session.close()

    run(scenario)


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


SNOW = replace(SPEC, prompt="snow")


async def opened_with_prompt(world, group, spec=SNOW):
    opening = await start_opening(world, group, [], spec=spec)
    rank = FakeRank()
    group.streams[-1].items.put_nowait(Lease("a", rank))
    session = await opening
    rank.replies = (None, "frames")
    return session, rank


async def step_with(session, prompt):
    return await session.step(["w"], prompt=prompt, time_to_underrun_s=0)


def test_without_a_text_encoder_the_rank_gets_the_prompt_alone():
    async def scenario(world, group, messages):
        session, rank = await opened_with_prompt(world, group)
        await step_with(session, "rain")
        assert rank.calls[0] == ("a", SNOW, IMAGE, None)
        assert rank.calls[1] == ("a", ["w"], "rain", 0, None)
        session.close()

    run(scenario)


def test_a_rank_without_text_encoder_gets_contexts():
    async def scenario(world, group, messages):
        session, rank = await opened_with_prompt(world, group)
        assert (rank.calls[0][-1] == len("snow")).all()
        await step_with(session, None)
        assert rank.calls[1][-1] is None
        await session.encode("a storm")
        await step_with(session, None)  # it began before the prompt was applied
        assert rank.calls[2][-1] is None
        await step_with(session, "a storm")
        assert rank.calls[3][2] == "a storm" and (rank.calls[3][-1] == len("a storm")).all()
        session.close()

    run(scenario, prompts=FakePrompts)


def test_the_prompt_is_encoded_while_the_client_waits_for_its_lease():
    async def scenario(world, group, messages):
        opening = await start_opening(world, group, messages, spec=SNOW)
        while not world._prompts.asked:
            await asyncio.sleep(0)
        assert group.streams[0].items.empty()
        group.streams[0].items.put_nowait(Lease("a", FakeRank()))
        (await opening).close()
        assert world._prompts.asked == ["snow"]

    run(scenario, prompts=FakePrompts)


def test_a_client_whose_prompt_takes_long_hears_that_the_world_is_warming_up():
    async def scenario(world, group, messages):
        world._prompts.gate.clear()
        opening = await start_opening(world, group, messages, spec=SNOW)
        rank = FakeRank()
        group.streams[0].items.put_nowait(Lease("a", rank))
        while len(messages) < 3:
            await asyncio.sleep(0.01)
        assert set(messages) == {Warming()} and rank.calls == []
        world._prompts.gate.set()
        (await opening).close()
        assert len(rank.calls) == 1

    run(scenario, prompts=FakePrompts)


def test_a_prompt_of_too_many_tokens_is_a_warning():
    long = replace(SPEC, prompt="a walk in the snow")

    async def scenario(world, group, messages):
        session, _ = await opened_with_prompt(world, group, long)
        (warning,) = session.take_warnings()
        assert (warning.code, warning.field) == ("prompt_truncated", "prompt")
        assert warning.content == "the prompt is too long: its last 8 tokens have no effect"
        await session.encode("a walk in the rain")
        assert [one.code for one in session.take_warnings()] == ["prompt_truncated"]
        await session.encode("rain")
        assert session.take_warnings() == []
        session.close()

    run(scenario, prompts=FakePrompts)


@pytest.mark.parametrize("error", [WorldLost("it died"), Busy("it is warming up")])
def test_a_prompt_that_cannot_be_encoded_opens_no_world_and_leaves_no_lease(error):
    async def scenario(world, group, messages):
        world._prompts.error = error
        opening = await start_opening(world, group, [], spec=SNOW)
        rank = FakeRank()
        group.streams[0].items.put_nowait(Lease("a", rank))
        with pytest.raises(type(error), match=str(error)):
            await opening
        assert group.streams[0].cancelled and rank.calls == []

    run(scenario, prompts=FakePrompts)


def test_a_prompt_that_cannot_be_encoded_later_leaves_the_session_as_it_was():
    async def scenario(world, group, messages):
        session, rank = await opened_with_prompt(world, group)
        world._prompts.error = WorldLost("it died")
        with pytest.raises(WorldLost, match="it died"):
            await session.encode("rain")
        assert await (await step_with(session, None)) == "frames"
        assert not group.streams[0].cancelled
        session.close()

    run(scenario, prompts=FakePrompts)


@pytest.mark.parametrize("has_lease", [False, True])
def test_a_client_that_leaves_leaves_no_encoding(has_lease):
    async def scenario(world, group, messages):
        world._prompts.gate.clear()
        opening = await start_opening(world, group, messages, spec=SNOW)
        if has_lease:
            group.streams[0].items.put_nowait(Lease("a", FakeRank()))
        while Warming() not in messages and Queued(1, all_taken=True) not in messages:
            await asyncio.sleep(0.01)
        opening.cancel()
        await asyncio.wait([opening])
        await asyncio.sleep(0)
        assert world._prompts.cancelled == 1 and group.streams[0].cancelled

    run(scenario, prompts=FakePrompts)


def test_a_lease_that_fails_leaves_no_encoding():
    async def scenario(world, group, messages):
        world._prompts.gate.clear()
        opening = await start_opening(world, group, messages, spec=SNOW)
        while not world._prompts.asked:
            await asyncio.sleep(0)
        group.streams[0].items.put_nowait(BackPressureError(8, 8))
        with pytest.raises(Busy):
            await opening
        await asyncio.sleep(0)
        assert world._prompts.cancelled == 1

    run(scenario, prompts=FakePrompts)
