"""The commands that all ranks of a group execute, and their encoding between processes."""

from typing import Any

import numpy as np
from msgspec import Struct, msgpack
from numpy.typing import NDArray

from lingbot.runtime.session import SessionSpec


class OpenSession(Struct, frozen=True, tag=True):
    """Open a session."""

    session_id: str
    spec: SessionSpec


class StepSession(Struct, frozen=True, tag=True):
    """Denoise the session's next chunk.

    On rank 0 the result is a future of the frames, which decode while the next command executes.
    """

    session_id: str
    actions: list[str]  # one per latent frame
    context: NDArray[np.float32] | None = None  # [L, text_dim]; None: the prompt stays


class SuspendSession(Struct, frozen=True, tag=True):
    """Move the next part of a session's tensors to host memory.

    The result is None while a part is left on the device, then True. It is False for a part that
    comes after the session was resumed.
    """

    session_id: str
    is_first: bool  # part


class ResumeSession(Struct, frozen=True, tag=True):
    """Return a session's tensors to the device. The result is False.

    A step does the same first. A session that is not open, or not suspended, is ignored.
    """

    session_id: str


class CloseSession(Struct, frozen=True, tag=True):
    """Free a session. A session that is not open is ignored."""

    session_id: str


class Heartbeat(Struct, frozen=True, tag=True):
    """No work; keeps an idle group's collectives from timing out."""


class Stop(Struct, frozen=True, tag=True):
    """End `run` on every rank."""


Command = (
    OpenSession | StepSession | SuspendSession | ResumeSession | CloseSession | Heartbeat | Stop
)


def encode_command(command: Command) -> bytes:
    """Raises UnicodeEncodeError for a session id or a key that holds a lone surrogate."""
    return ENCODER.encode(command)


def decode_command(message: bytes) -> Command:
    command: Command = DECODER.decode(message)
    return command


def encode_array(array: NDArray[Any]) -> tuple[str, tuple[int, ...], bytes]:
    """An array of any type, so that every rank receives, and refuses, the same arrays."""
    return array.dtype.str, array.shape, array.tobytes()


def decode_array(_: type, parts: tuple[str, list[int], bytes]) -> NDArray[Any]:
    dtype, shape, data = parts
    return np.frombuffer(data, dtype).reshape(shape)


ENCODER = msgpack.Encoder(enc_hook=encode_array)
DECODER = msgpack.Decoder(Command, dec_hook=decode_array)
