"""A group, its ranks and a text encoder that a test controls."""

import asyncio
from contextvars import ContextVar

import numpy as np

from deployments.config import ServiceConfig
from deployments.encoded_prompt import EncodedPrompt
from deployments.lease import LeasedWorld
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
        self.touch = Remote(lambda session_id, report: None)
        self.pause = Remote(lambda session_id: self.paused.append(session_id))
        self.paused = []
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
        self.streams, self.requests, self.demands = [], [], []
        self.lease = Remote(self.call)

    def options(self, **options):
        return self

    def call(self, demand):
        self.demands.append(demand)
        self.requests.append(REQUEST.get())
        self.streams.append(FakeStream())
        return self.streams[-1]


class FakeReadiness:
    """Gives its answers one after the other, then repeats the last."""

    def __init__(self, answers, *, is_adding=False):
        self.answers, self.is_adding = list(answers), is_adding

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


def run(scenario, *, ready=(True,), is_adding=False, prompts=None, **config):
    """Run `scenario(world, group, messages)`. `ready` lists the answers about the group.

    `is_adding`: another group is starting.

    `prompts` builds the text encoder of a world whose ranks have none.
    """

    async def run_in_loop():
        group = FakeGroup()
        readiness = FakeReadiness(ready, is_adding=is_adding)
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
