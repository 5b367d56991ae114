"""A protocol and a chunk sender without a socket."""

import anyio
import pytest
from msgspec import msgpack

from transport.connection.chunk_sender import ChunkSender
from transport.connection.sender import MessageSender
from transport.wire.init import SessionRequest
from transport.wire.limits import ClientLimits
from transport.wire.protocol import ServerProtocol


@pytest.fixture
def start(make_world):
    """Builds a protocol that has opened a session with these fields of init."""

    def build(**fields):
        protocol = ServerProtocol(make_world().info, limits=ClientLimits())
        init = msgpack.encode({"type": "init", "fps": 16} | fields)
        assert isinstance(protocol.receive(init, 0.0), SessionRequest)
        protocol.send_session("s")
        return protocol

    return build


@pytest.fixture
def make_chunk_sender():
    """Builds a chunk sender on a socket. Without a limiter it has two workers."""

    def build(socket, protocol, *, limiter=None):
        sender = MessageSender(socket, timeout_s=60, on_progress=protocol.note_progress)
        return ChunkSender(
            sender, protocol, session_id="s", limiter=limiter or anyio.CapacityLimiter(2)
        )

    return build
