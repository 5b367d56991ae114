"""A protocol without a socket."""

import pytest
from msgspec import msgpack

from transport.wire.init import SessionRequest
from transport.wire.limits import ClientLimits
from transport.wire.protocol import ServerProtocol
from transport.wire.world import Opening, WorldInfo

OPENING = Opening(name="hill", prompt="a grey hill", image=b"PNG")


def make_info(*, openings=(OPENING,), sizes=((112, 64),)):
    return WorldInfo(
        preset="test",
        sizes=sizes,
        size_multiple=16,
        max_pixels=832 * 480,
        fps=16,
        chunk_latent_frames=3,
        first_chunk_frames=9,
        chunk_frames=12,
        max_window=21,
        sink=6,
        max_steps=4,
        openings=openings,
    )


@pytest.fixture
def info():
    """Builds the description of a world."""
    return make_info


@pytest.fixture
def connect():
    """Builds a protocol that waits for an init."""

    def build(*, info=None, **limits):
        return ServerProtocol(info or make_info(), limits=ClientLimits(**limits))

    return build


@pytest.fixture
def start(connect):
    """Builds a protocol that has accepted an init with these fields."""

    def build(**fields):
        protocol = connect()
        request = protocol.receive(msgpack.encode({"type": "init"} | fields), 0.0)
        assert isinstance(request, SessionRequest)
        return protocol

    return build
