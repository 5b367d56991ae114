"""The actor's class in this process, on an engine of some lines."""

import asyncio
import threading
from types import SimpleNamespace

import numpy as np

from deployments.config import ServiceConfig
from deployments.rank_replies import Opened
from deployments.sessions.admission import Demand
from deployments.sessions.lease_reply import Leased
from deployments.world_rank import RankAssignment, WorldRank
from lingbot.config import Size
from lingbot.errors import LingbotError
from lingbot.parallel.ulysses import SINGLE
from lingbot.runtime.commands import Stop
from lingbot.runtime.restoring import Part
from tests.waiting import until
from transport.wire.world import WorldSpec

IMAGE = np.zeros((1, 1, 3), np.uint8)


class FakeSession(int):
    is_steady, has_default_speed, size = False, True, Size(16, 16)  # of unknown speed
    suspension, num_chunks = None, 0

    @property
    def origin(self):
        return f"origin of {int(self)}"

    def snapshot(self, *, num_more):
        return FakeSnapshot(int(self), self.num_chunks)


class FakeSnapshot(SimpleNamespace):
    """The snapshot of a session with this seed, after so many chunks."""

    def __init__(self, seed, num_chunks):
        super().__init__(seed=seed, num_chunks=num_chunks, chunks=(), prompt="", journal=None)
        self.origin = f"origin of {seed}"


class FakeEngine:
    """A session is its seed, and its frames are filled with it."""

    group, memory, suspend_frees_memory = SINGLE, None, False
    config = SimpleNamespace(
        sizes=(Size(16, 16),), window=1, chunk=1, chunk_frames=4, fps=16, num_steps=4
    )

    def __init__(self):
        self.opened, self.live, self.order, self.broken = [], [], [], None
        self.steps = []  # context, prompt and recache of each
        self.restored = None  # the last snapshot, its contexts and `exact`
        self.gate, self.decode_gate = threading.Event(), threading.Event()
        self.gate.set()
        self.decode_gate.set()

    def check_open(self, spec):
        if spec.seed == 13:
            raise LingbotError("thirteen is unlucky", field="seed")

    def open(self, spec):
        self.gate.wait(60)
        self.opened.append(spec.seed)
        self.context = spec.context
        self.check_open(spec)
        self.live.append(spec.seed)
        return FakeSession(spec.seed)

    def check_restore(self, snapshot, contexts, exact):
        if snapshot.seed == 13:
            raise LingbotError("snapshot.seed is unlucky", field="snapshot.seed")

    def begin_restore(self, snapshot, contexts, exact):
        self.restored = snapshot, contexts, exact
        session = FakeSession(snapshot.seed)
        session.num_chunks = snapshot.num_chunks
        self.live.append(snapshot.seed)
        parts = [Part((snapshot.seed,)), Part(is_last=True)]

        def advance():
            self.gate.wait(60)
            return parts.pop(0)

        return SimpleNamespace(session=session, advance=advance)

    def denoise(self, session, actions, *, context, prompt, recache):
        self.steps.append((context, prompt, recache))
        self.gate.wait(60)
        self.order.append(session)
        if self.broken:
            raise self.broken
        session.num_chunks += 1
        return session

    def newest_latents(self, session):
        return np.full((16, 1, 1, 1), session.num_chunks, np.float32)

    def decode(self, session, latents):
        self.decode_gate.wait(60)
        return np.full((2, 1, 1, 3), latents, np.uint8)

    def close(self, session):
        self.live.remove(session)


def spec(seed):
    return WorldSpec(prompt="", seed=seed, width=1, height=1)


def run(scenario, *, notice_period_s=60, **config):
    """Run `scenario(rank, engine)` on a started rank.

    Any open may be queued for a moment, on a busy machine for longer than a short period.
    """

    async def run_in_loop():
        engine = FakeEngine()
        rank = WorldRank(
            ServiceConfig(**config), load=lambda group: engine, notice_period_s=notice_period_s
        )
        await rank.start(RankAssignment())
        await rank.start_loop()
        assert engine.order and not engine.live  # it has been warmed up
        for notes in (engine.order, engine.opened, engine.steps):
            notes.clear()
        await asyncio.wait_for(scenario(rank, engine), 120)
        engine.gate.set()
        engine.decode_gate.set()
        await asyncio.wrap_future(rank._worker.submit(Stop(), deadline=0))

    asyncio.run(run_in_loop())


async def collect(replies, collected):
    async for reply in replies:
        collected.append(reply)


async def all_of(replies):
    return [reply async for reply in replies]


def start(replies):
    """A task that reads all replies of a call, as Ray does."""
    return asyncio.create_task(all_of(replies))


HELD = {}  # the lease calls: asyncio keeps no reference to a task


class LeaseCall:
    """The replies of a lease call so far. It is held until the lease ends."""

    def __init__(self, rank, call_id, **demand):
        self.replies = []
        demand = Demand(width=16, height=16, **demand)
        self.task = asyncio.create_task(collect(rank.lease(call_id, demand), self.replies))
        HELD[call_id] = self

    @property
    def lease(self):
        """None before it has come."""
        return next((reply for reply in self.replies if isinstance(reply, Leased)), None)


async def reserved(rank, session_id, **demand):
    call = LeaseCall(rank, session_id, **demand)
    await until(lambda: call.lease)
    return call.lease


async def attached(rank, call_id, lease):
    """Another lease of the session of this one."""
    return await reserved(rank, call_id, resume=(lease.session_id, lease.secret))


async def start_opening(rank, session_id, seed, **demand):
    await reserved(rank, session_id, **demand)
    return start(rank.open(session_id, 1, spec(seed), IMAGE))


async def opened(rank, session_id, seed, **demand):
    """The lease of a session whose world is open."""
    *_, reply = await (await start_opening(rank, session_id, seed, **demand))
    assert reply == Opened(f"origin of {seed}", None)
    return HELD[session_id].lease


def start_step(rank, session_id, *, epoch=1, time_to_underrun_s=0.0):
    return start(rank.step(session_id, epoch, ["w"], None, time_to_underrun_s))


async def denoised(rank, session_id, *, epoch=1):
    """The replies of a step, after its first one."""
    replies = rank.step(session_id, epoch, ["w"], None, 0)
    assert await anext(replies) is None
    return replies
