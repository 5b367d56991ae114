"""Sockets to one server, one after another: the first, and another where one was lost.

Tested in `tests/transport/client/test_reconnecting.py`.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import WebSocketException

from transport.client.chunk_reader import ConnectionLost
from transport.wire.errors import TransportError
from transport.wire.messages import SessionOpened

# Fields of an init that a world which goes on has already.
WORLD_FIELDS = (
    "prompt",
    "first_frame",
    "size",
    "seed",
    "num_inference_steps",
    "realtime_causal_sink_size",
    "realtime_causal_kv_cache_num_frames",
    "condition_inputs",
    "snapshot",
    "fork",
    "resume",
)
FIRST_DELAY_S, MAX_DELAY_S = 0.1, 2.0  # between two attempts


def resume_init(
    init: dict[str, Any], session: SessionOpened, *, num_chunks: int, script: list[list[str]]
) -> dict[str, Any]:
    """The fields of an init that goes on with a session after `num_chunks` of this init.

    `script`: what is left to play. It begins with the next chunk, which no event can promise.
    """
    rest = {name: value for name, value in init.items() if name not in WORLD_FIELDS}
    if "max_chunks" in rest:
        rest["max_chunks"] = max(1, rest["max_chunks"] - num_chunks)
    if script:
        rest["condition_inputs"] = {"camera_actions": script}
    return rest | {"resume": session.resume_token}


@dataclass(slots=True)
class Dialer:
    """Opens sockets. It knows how long a lost one may still be replaced."""

    url: str
    token: str | None = None
    _socket: ClientConnection | None = None
    _until_s: float | None = None  # a lost socket may be replaced until then
    _within_s: float = 0.0
    _num_attempts: int = 0

    async def dial(self) -> ClientConnection:
        """Raises OSError, TimeoutError and WebSocketException."""
        # Deflating frames costs more time than it saves. Acks bound the queue; with a bound of its
        # own, the socket would not read the server's answer to a close.
        headers = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        self._socket = await open_socket(
            self.url, compression=None, max_size=None, max_queue=None, additional_headers=headers
        )
        return self._socket

    @property
    def is_redialing(self) -> bool:
        """A socket was lost, and its session is not open again."""
        return self._until_s is not None

    def note_loss(self, *, within_s: float) -> bool:
        """True for the first loss since the session was open."""
        if self._until_s is not None:
            return False
        self._within_s = within_s
        self._until_s = asyncio.get_running_loop().time() + within_s
        self._num_attempts = 0
        return True

    def note_open(self) -> None:
        self._until_s = None

    async def redial(self, lost: ConnectionLost) -> ClientConnection:
        """Another socket. Raises TransportError once no world waits for it any more."""
        assert self._until_s is not None
        loop, error = asyncio.get_running_loop(), str(lost)
        await self.close()
        while (remaining_s := self._until_s - loop.time()) > 0:
            delay_s = FIRST_DELAY_S * 2 ** (self._num_attempts - 1) if self._num_attempts else 0.0
            await asyncio.sleep(min(delay_s, MAX_DELAY_S, remaining_s))
            self._num_attempts += 1
            try:
                async with asyncio.timeout_at(self._until_s):
                    return await self.dial()
            except (OSError, TimeoutError, WebSocketException) as exc:
                error = str(exc) or type(exc).__name__
        raise TransportError(
            f"the connection broke, and could not be resumed within {self._within_s:g} s: {error}",
            close_code=lost.close_code,
        )

    async def close(self) -> None:
        """Closes the newest socket. It may be called twice."""
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()
