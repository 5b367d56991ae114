"""A connection on a clock that jumps from timer to timer, so that minutes of it take a second."""

import asyncio
import math
from dataclasses import dataclass, field

import anyio
from msgspec import msgpack

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
    """A client that sends one init and notes when each message arrives."""

    init: dict
    received: list = field(default_factory=list)

    async def accept(self):
        pass

    async def receive(self):
        if self.init is None:
            await anyio.sleep(math.inf)
        data, self.init = msgpack.encode(self.init), None
        return {"type": "websocket.receive", "bytes": data}

    async def send_bytes(self, data):
        self.received.append((anyio.current_time(), msgpack.decode(data)))

    async def close(self, code, reason):
        self.closed_with = code, reason


async def run_at_once(work, *, limiter):
    """In place of a worker thread, which knows no virtual clock."""
    return work()


def serve_on_virtual_clock(world, init, monkeypatch, *, seconds):
    """Serves one client for so long. Returns its socket."""
    for module in ("connection", "chunk_sender"):
        monkeypatch.setattr(f"transport.connection.{module}.run_in_worker", run_at_once)
    socket = Socket({"type": "init"} | init)

    async def scenario():
        with anyio.move_on_after(seconds):
            await Connection(socket, world, limits=ClientLimits(), capacity=CapacityLimits()).run()

    anyio.run(scenario, backend_options={"loop_factory": VirtualClock})
    return socket
