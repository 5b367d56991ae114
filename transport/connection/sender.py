"""Writes units of messages to one socket, and nothing between the parts of a unit."""

from collections.abc import Callable

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect

from transport.wire.errors import Refused
from transport.wire.messages import Unit

OnProgress = Callable[[Unit, int], None]


class MessageSender:
    """Several tasks may send at once."""

    def __init__(self, socket: WebSocket, *, timeout_s: float, on_progress: OnProgress) -> None:
        """`timeout_s` bounds each write. `on_progress` receives a unit and its written parts.

        It is called before the first part of a unit, and after each part.
        """
        self._socket = socket
        self._timeout_s = timeout_s
        self._on_progress = on_progress
        self._lock = anyio.Lock(fast_acquire=True)
        self._interrupted = False  # a unit was started and not finished

    async def send(self, unit: Unit) -> tuple[float, float]:
        """Returns the seconds that all parts before the last took, and those of the last.

        Raises Refused for a client that reads too slowly, and WebSocketDisconnect. After an
        interrupted unit nothing is sent any more: it would arrive in the place of the rest.
        """
        if not unit:
            return 0.0, 0.0
        async with self._lock:
            if self._interrupted:
                raise self._timed_out()
            self._interrupted = True
            started_s = last_started_s = anyio.current_time()
            self._on_progress(unit, 0)
            for num_written, part in enumerate(unit, start=1):
                last_started_s = anyio.current_time()
                await self._write(part)
                self._on_progress(unit, num_written)
            self._interrupted = False
            ended_s = anyio.current_time()
        return last_started_s - started_s, ended_s - last_started_s

    async def _write(self, data: bytes | memoryview) -> None:
        with anyio.move_on_after(self._timeout_s) as timeout_scope:
            await self._send_bytes(data)
        if timeout_scope.cancelled_caught:
            raise self._timed_out()

    def _timed_out(self) -> Refused:
        text = f"a message could not be sent within {self._timeout_s:g} s"
        return Refused(text, code="timeout", close_code=1008)

    async def _send_bytes(self, data: bytes | memoryview) -> None:
        try:
            # Starlette passes any object on, and servers take every bytes-like one.
            await self._socket.send_bytes(data)  # type: ignore[arg-type]
        except RuntimeError as exc:  # raised by some servers once the client has left
            raise WebSocketDisconnect(1006) from exc
