"""A group, its ranks and a text encoder that a test controls."""

import asyncio
from contextvars import ContextVar

import numpy as np
from ray.exceptions import RayError
from ray.serve.exceptions import RequestCancelledError

from deployments.config import ServiceConfig
from deployments.encoded_prompt import EncodedPrompt
from deployments.rank_replies import Chunk, Opened
from deployments.running_replicas import RunningReplicas
from deployments.world import ClusterWorld
from lingbot.runtime.snapshot import Origin
from transport.wire.world import WorldSpec

SPEC = WorldSpec(prompt="", seed=1, width=1, height=1)
IMAGE = np.zeros((1, 1, 3), np.uint8)
ORIGIN = Origin(
    preset="pocket",
    fingerprint="f",
    width=16,
    height=16,
    seed=1,
    num_steps=None,
    window=3,
    sink=1,
    chunk=1,
    condition=np.zeros((16, 1, 2, 2), np.float32),
)
OPENED = Opened(ORIGIN)
SECRET = "s" * 22
DEPLOYMENT = ("lingbot", "WorldGroup")


def chunk(number):
    """A chunk that shows its number."""
    frames = np.full((1, 1, 1, 3), number, np.uint8)
    return Chunk(frames, np.full((16, 1, 2, 2), number, np.float32))


class Remote:
    """An actor's method."""

    def __init__(self, call):
        self.remote = call


REQUEST = ContextVar("REQUEST", default=None)  # as Serve and Ray mark the calls of a request


class FakeRank:
    """Streams its replies as Ray does: awaitables, of which errors raise. None ends a stream.

    Without `replies` it has a world: each step gives the next chunk, and `restore` sets the next
    one's number. A gate that is cleared holds its replies back, and `die` makes all calls fail.
    """

    def __init__(self, *opening):
        self.opening = opening or (OPENED,)
        self.replies = None
        self.open = Remote(self.respond_open)
        self.restore = Remote(self.respond_restore)
        self.step = Remote(self.respond_step)
        self.hand_over = Remote(self.respond_hand_over)
        self.touch = Remote(lambda session_id, epoch, report: None)
        self.pause = Remote(lambda session_id, epoch: self.paused.append(session_id))
        self.unpause = Remote(lambda session_id, epoch: self.unpaused.append(session_id))
        self.end = Remote(self.respond_end)
        self.paused, self.ended, self.requests, self.calls = [], [], [], []
        self.unpaused = []
        self.restored = []  # snapshots
        self.stepped = []  # chunk, actions, prompt
        self.handed_over, self.is_taken_over = None, False
        self.next_chunk = 0
        self.denoise, self.decode = asyncio.Event(), asyncio.Event()
        self.denoise.set(), self.decode.set()
        self.death = asyncio.Event()
        self.error = RayError("gone")

    def die(self, error=None):
        self.error = error or self.error
        self.death.set()

    def respond_open(self, *args):
        return self.respond(args, self.opening if self.replies is None else self.replies)

    def respond_restore(self, session_id, epoch, snapshot, contexts):
        self.restored.append(snapshot)
        self.next_chunk = snapshot.next_chunk
        args = (session_id, epoch, snapshot, contexts)
        return self.respond(args, self.opening if self.replies is None else self.replies)

    def respond_step(self, *args):
        if self.replies is not None:
            return self.respond(args, self.replies)
        number, self.next_chunk = self.next_chunk, self.next_chunk + 1
        self.stepped.append((number, *args[2:4]))
        return self.respond(args, (self.denoise, None, self.decode, chunk(number)))

    async def respond_hand_over(self, session_id, secret, end):
        self.calls.append((session_id, secret, end))
        if self.death.is_set():
            raise self.error
        return self.handed_over

    def respond_end(self, session_id, epoch, has_moved=False):
        self.ended.append((session_id, epoch))
        answer = asyncio.get_running_loop().create_future()
        if self.death.is_set():
            answer.set_exception(self.error)
            answer.exception()  # it may be that nobody awaits it
        else:
            answer.set_result(self.is_taken_over)
        return answer

    def respond(self, args, replies):
        self.requests.append(REQUEST.get())
        self.calls.append(args)
        return self.stream(replies)

    async def stream(self, replies):
        for reply in replies:
            if reply is HANGS:
                await self.reach(asyncio.Event())
            elif isinstance(reply, asyncio.Event):
                await self.reach(reply)
                if not self.death.is_set():
                    continue
            future = asyncio.get_running_loop().create_future()
            if self.death.is_set():
                future.set_exception(self.error)
            elif isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)
            yield future
            if self.death.is_set():
                return

    async def reach(self, gate):
        """Returns when the gate is open, or this process has died."""
        waits = [asyncio.ensure_future(event.wait()) for event in (gate, self.death)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


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
        self.items.put_nowait(RequestCancelledError("a"))  # as Serve answers


class FakeGroup:
    app_name, deployment_name = DEPLOYMENT

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


class FakeForks:
    """Keeps worlds without a limit of time."""

    ttl_s = timeout_s = 60.0

    def __init__(self):
        self.worlds = {}  # encoded forks
        self.left = {}  # worlds of lost sockets
        self.claims = []

    async def fork(self, data, *, session, token=None):
        token = token or f"fork-{len(self.worlds)}"
        self.worlds[token] = data
        return token

    async def get(self, token):
        return self.worlds[token]

    async def keep(self, token, left):
        self.left[token] = left

    async def claim(self, token, number):
        self.claims.append((token, number))

    async def take(self, token):
        return self.left.pop(token)


def run(scenario, *, ready=(True,), is_adding=False, prompts=None, hand_over=None, **config):
    """Run `scenario(world, group, messages)`. `ready` lists the answers about the group.

    `is_adding`: another group is starting. `prompts` builds the text encoder of a world whose ranks
    have none. `hand_over` is that of `ClusterWorld`.
    """

    async def run_in_loop():
        group = FakeGroup()
        readiness = FakeReadiness(ready, is_adding=is_adding)
        world = ClusterWorld(
            group,
            None,
            ServiceConfig(**config),
            prompts=prompts and prompts(),
            forks=FakeForks(),
            readiness=readiness,
            notice_period_s=0.01,
            running=RunningReplicas(),
            hand_over=hand_over,
            replica=("Transport", "me"),
        )
        await asyncio.wait_for(scenario(world, group, []), 30)

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
