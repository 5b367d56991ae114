"""The commands that all ranks of a group execute, and their encoding between processes."""

from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct, msgpack
from numpy.typing import NDArray

from lingbot.runtime.session import SessionSpec
from lingbot.runtime.snapshot import Origin, Snapshot


class Opening(NamedTuple):
    """The result of OpenSession and of RestoreSession."""

    origin: Origin
    last_frame: NDArray[np.uint8] | None = None  # [H, W, 3]; None: nothing has been shown


class OpenSession(Struct, frozen=True, tag=True):
    """Open a session, in place of one of the same name. The result is its `Opening`.

    A request that is refused leaves that one as it was.
    """

    session_id: str
    spec: SessionSpec


class RestoreSession(Struct, frozen=True, tag=True, kw_only=True):
    """Open a session that goes on from a snapshot, in place of one of the same name.

    The result is its `Opening`. See `Engine.begin_restore`. `Worker.submit` queues the other parts
    as `ContinueRestore`, each of which takes about as long as a chunk.
    """

    session_id: str
    snapshot: Snapshot
    contexts: dict[str, NDArray[np.float32]]  # [L, text_dim] by prompt: see `needed_prompts`
    exact: bool = False


class ContinueRestore(Struct, frozen=True, tag=True):
    """The next part of a session's restoration. The result is a `Part`, as of the first one."""

    session_id: str


class TakeSnapshot(Struct, frozen=True, tag=True):
    """The result is a snapshot of the session after its last chunk."""

    session_id: str


class StepSession(Struct, frozen=True, tag=True, kw_only=True):
    """Denoise the session's next chunk.

    On rank 0 the result is a future of (frames, latents): the frames uint8 [T, H, W, 3], which are
    decoded while the next command executes, and the latents [16, F, h, w] as in `KeptChunk`.
    """

    session_id: str
    actions: list[str]  # one per latent frame
    context: NDArray[np.float32] | None = None  # [L, text_dim]; None: the prompt stays
    prompt: str | None = None  # the text of `context`
    recache: bool = False  # rebuild the window under `context` first


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
    OpenSession
    | RestoreSession
    | ContinueRestore
    | TakeSnapshot
    | StepSession
    | SuspendSession
    | ResumeSession
    | CloseSession
    | Heartbeat
    | Stop
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
