"""A connection on a clock that jumps from timer to timer, so that minutes of it take a second."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
from msgspec import msgpack
from msgspec.structs import replace

from transport.connection.connection import Connection
from transport.wire.limits import ClientLimits
from transport.worker_limits import CapacityLimits


class VirtualClock(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self):
        super().__init__()
        self._now_s = 0.0
        select = self._selector.select

        def jump(timeout=None):
            self._now_s += timeout or 0.0
            return select(0)

        self._selector.select = jump

    def time(self):
        return self._now_s


@dataclass
class Socket:
    """A client that sends messages at their times and notes when each answer arrives."""

    to_send: list  # (seconds since the start, message), in order
    acknowledges: bool = False
    received: list = field(default_factory=list)
    _acks: deque = field(default_factory=deque)
    _acked: anyio.Event = field(default_factory=anyio.Event)

    async def accept(self):
        pass

    async def receive(self):
        while not self._acks:
            due_s = self.to_send[0][0] if self.to_send else math.inf
            if due_s <= anyio.current_time():
                self._acks.append(self.to_send.pop(0)[1])
                break
            self._acked = anyio.Event()
            with anyio.move_on_after(due_s - anyio.current_time()):
                await self._acked.wait()
        return {"type": "websocket.receive", "bytes": msgpack.encode(self._acks.popleft())}

    async def send_bytes(self, data):
        message = msgpack.decode(data)
        self.received.append((anyio.current_time(), message))
        if self.acknowledges and message["type"] == "chunk_stats":
            self._acks.append({"type": "ack", "chunk_index": message["chunk_index"]})
            self._acked.set()

    async def close(self, code, reason):
        self.closed_with = code, reason


@dataclass
class TimedFrames:
    """Frames that are decoded at `done_s`. They need not be awaited."""

    done_s: float
    frames: object

    def __await__(self):
        yield from anyio.sleep_until(self.done_s).__await__()
        return self.frames


@dataclass
class TimedSession:
    """Denoises a chunk and decodes it during the next one, each in the given time."""

    denoising_s: float
    decoding_s: float
    paint: Callable  # the number of a chunk to its frames
    num_steps: int = 0
    pauses: list = field(default_factory=list)  # (seconds, steps before it)
    unpauses: list = field(default_factory=list)  # seconds
    is_stepping: bool = False
    id: str = "s1"
    earliest_chunk: int = 0
    age_s: float = 0.0
    resume_token: str | None = None
    last_frame: None = None
    commands: list = field(default_factory=list)  # (seconds, name)
    command_s: float = 0.0  # that one takes
    is_closed: bool = False
    _num: int = 0
    _decoded_s: float = 0.0

    async def step(self, actions, *, prompt, time_to_underrun_s):
        jitter = (0.9, 1.15, 1.0, 0.95)[self._num % 4]
        self.num_steps += 1
        self.is_stepping = True
        await anyio.sleep(self.denoising_s * jitter)
        self.is_stepping = False
        self._num += 1
        self._decoded_s = max(self._decoded_s, anyio.current_time()) + self.decoding_s
        return TimedFrames(self._decoded_s, self.paint(self._num))

    @property
    def chunk_index(self):
        return self._num

    async def save(self):
        await self._command("save")
        return b"snapshot"

    async def fork(self):
        await self._command("fork")
        return "token", 600

    async def rewind(self, chunk_index):
        await self._command("rewind")
        assert self.earliest_chunk <= chunk_index <= self._num
        self._num = chunk_index

    async def reset(self, *, seed, prompt):
        await self._command("reset")
        self._num = 0

    async def _command(self, name):
        assert not self.is_stepping
        self.commands.append((anyio.current_time(), name))
        await anyio.sleep(self.command_s)

    def take_notices(self):
        return []

    async def lost(self):
        await anyio.sleep(math.inf)

    def pause(self):
        assert not self.is_stepping
        self.pauses.append((anyio.current_time(), self.num_steps))

    def unpause(self):
        self.unpauses.append(anyio.current_time())

    def close(self):
        self.is_closed = True

    detach = close


def take_time(world, *, fps, denoising_s, decoding_s, command_s=0.0, age_s=0.0):
    """Makes each chunk of the world take so long. Returns the list of sessions that it opens."""
    world.info = replace(world.info, fps=fps)
    sessions = []

    async def open_timed(spec, image, *, on_wait):
        def paint(num):
            return world.paint((9 if num == 1 else 12, spec.height, spec.width, 3), num)

        timed = TimedSession(denoising_s, decoding_s, paint, command_s=command_s, age_s=age_s)
        sessions.append(timed)
        return sessions[-1]

    world.open = open_timed
    return sessions


async def run_at_once(work, *, limiter):
    """In place of a worker thread, which knows no virtual clock."""
    return work()


def serve_on_virtual_clock(
    world, init, monkeypatch, *, seconds, events=(), acknowledges=False, **limits
):
    """Serves one client for so long. `events` are (seconds, message). Returns its socket."""
    for module in ("connection", "opening", "chunk_sender"):
        monkeypatch.setattr(f"transport.connection.{module}.run_in_worker", run_at_once)
    later = [(at_s, {"type": "event"} | event) for at_s, event in events]
    socket = Socket([(0.0, {"type": "init"} | init), *later], acknowledges)
    client_limits = ClientLimits(**limits)

    async def scenario():
        with anyio.move_on_after(seconds):
            await Connection(socket, world, limits=client_limits, capacity=CapacityLimits()).run()

    anyio.run(scenario, backend_options={"loop_factory": VirtualClock})
    return socket
