"""The commands that all ranks of a group execute, and their encoding between processes."""

from typing import Any

import numpy as np
from msgspec import Struct, msgpack
from numpy.typing import NDArray

from lingbot.runtime.session import SessionSpec


class Open(Struct, frozen=True, tag=True):
    """Make a session's world."""

    session_id: str
    spec: SessionSpec


class Step(Struct, frozen=True, tag=True):
    """Make the next chunk. On rank 0 its result is a future of the frames, which are decoded
    while the next command is obeyed.
    """

    session_id: str
    actions: list[str]
    prompt: str | None = None


class Close(Struct, frozen=True, tag=True):
    """Free a session. One that is not there is fine."""

    session_id: str


class Heartbeat(Struct, frozen=True, tag=True):
    """Nothing to do, and still here."""


class Stop(Struct, frozen=True, tag=True):
    """End ``run`` on every rank."""


Command = Open | Step | Close | Heartbeat | Stop


def encode_array(array: NDArray[Any]) -> tuple[str, tuple[int, ...], bytes]:
    """How a picture travels in a command: of any type, so that all ranks refuse the same ones."""
    return array.dtype.str, array.shape, array.tobytes()


def decode_array(_: type, parts: tuple[str, list[int], bytes]) -> NDArray[Any]:
    dtype, shape, data = parts
    return np.frombuffer(data, dtype).reshape(shape)


ENCODER = msgpack.Encoder(enc_hook=encode_array)
DECODER = msgpack.Decoder(Command, dec_hook=decode_array)
