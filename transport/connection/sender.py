"""The sending side of one socket: whole messages, and nothing between a header and its payload."""

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect

from transport.codecs.payload import BatchMessage
from transport.wire.errors import Refused
from transport.wire.messages import ServerMessage, encode_message


class MessageSender:
    """May be used by several tasks at once."""

    def __init__(self, socket: WebSocket, *, timeout_s: float) -> None:
        """A client that takes no message for `timeout_s` is refused: the others wait for it."""
        self._socket = socket
        self._timeout_s = timeout_s
        self._sending = anyio.Lock(fast_acquire=True)
        self.torn = False  # a header is out and its payload is not

    async def send(self, message: ServerMessage) -> None:
        async with self._sending:
            await self._write(encode_message(message))

    async def send_batch(self, batch: BatchMessage) -> tuple[float, float]:
        """Returns the seconds that its header and its payload took."""
        *header, last = batch.parts
        async with self._sending:
            started = anyio.current_time()
            self.torn = bool(header)
            for part in header:
                await self._write(part)
            header_sent = anyio.current_time()
            await self._write(last)
            self.torn = False
        return header_sent - started, anyio.current_time() - header_sent

    async def _write(self, data: bytes | memoryview) -> None:
        with anyio.move_on_after(self._timeout_s) as patience:
            await self._hand_on(data)
        if patience.cancelled_caught:
            text = f"a message could not be sent in {self._timeout_s:g} s"
            raise Refused(text, code="timeout", close_code=1008)

    async def _hand_on(self, data: bytes | memoryview) -> None:
        try:
            # Starlette hands on whatever it is given, and servers take all that is like bytes.
            await self._socket.send_bytes(data)  # type: ignore[arg-type]
        except RuntimeError as exc:  # what some servers raise once the client has left
            raise WebSocketDisconnect(1006) from exc
