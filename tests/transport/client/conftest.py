"""A connection that can be cut, between a client and a server of this process."""

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest

from transport.paths import SOCKET_PATH


class Relay:
    """Passes bytes between a client and a port. `cut` breaks all connections."""

    def __init__(self, port):
        self._port, self._writers = port, []
        self.num_connections = 0
        self.is_open = True  # else connections are refused

    @property
    def url(self):
        return f"ws://127.0.0.1:{self.port}{SOCKET_PATH}"

    async def start(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self):
        self.cut()
        self._server.close()
        await self._server.wait_closed()

    def cut(self):
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader, writer):
        if not self.is_open:
            writer.transport.abort()
            return
        self.num_connections += 1
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, far_writer]
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))

    async def _pass(self, reader, writer):
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
def relay_to():
    @asynccontextmanager
    async def relaying(port):
        relay = Relay(port)
        await relay.start()
        try:
            yield relay
        finally:
            await relay.stop()

    return relaying


@pytest.fixture
def url(world, listen):
    with listen(world) as port:
        yield f"ws://127.0.0.1:{port}{SOCKET_PATH}"
