"""How a connection ends: the close code, the reason, and the error that the client receives."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect

from transport.observer import Client, Observer
from transport.session_log import report_refused
from transport.wire.closing import Close, build_close
from transport.wire.errors import TransportError
from transport.wire.messages import Reconnect

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 5.0
DISCONNECT_TIMEOUT_S = 1.0
# A socket that is lost has 1005 or 1006, by the server; 1005 is also a close frame without a code.
CLOSED_BY_CLIENT = (1000, 1001)


class HandedOver(Exception):
    """This process goes away. The client shall resume its session on another socket."""


@dataclass(slots=True, frozen=True, kw_only=True)
class CloseReason:
    """Why a connection ends."""

    code: int
    reason: str
    error: TransportError | None = None
    client_left: bool = False
    handed_over: bool = False  # the client shall resume on another socket

    @property
    def keeps_world(self) -> bool:
        """The socket was lost, and nobody has ended the session: its world waits for another.

        A line that is cut without a word looks like a client that does not read or acknowledge.
        """
        if self.client_left:
            return self.code not in CLOSED_BY_CLIENT
        return self.handed_over or self.label in ("cancelled", "timeout")

    @property
    def last(self) -> TransportError | Reconnect | None:
        """What the client receives before the close."""
        return Reconnect(self.reason) if self.handed_over else self.error

    @property
    def label(self) -> str:
        """The reason as one of few words."""
        if self.client_left:
            return "client_left"
        if self.error is not None:
            return self.error.code
        if self.handed_over:
            return "handed_over"
        return "done" if self.code == 1000 else "cancelled"


CANCELLED = CloseReason(code=1006, reason="cancelled")  # from outside: nothing can be sent


def close_reason_for(exc: Exception) -> CloseReason:
    """The reason in an exception or a group of them. It hides the text of unexpected ones."""
    failures = list(_leaves(exc))
    if codes := [failure.code for failure in failures if isinstance(failure, WebSocketDisconnect)]:
        # A send that failed has 1006. The client's own close may have been read at that moment.
        code = next((code for code in codes if code != 1006), 1006)
        return CloseReason(code=code, reason="the client left", client_left=True)
    for failure in failures:
        if isinstance(failure, HandedOver):
            return CloseReason(code=1012, reason=str(failure), handed_over=True)
        if isinstance(failure, TransportError):
            return CloseReason(code=failure.close_code or 1008, reason=str(failure), error=failure)
    logger.error("a session failed", exc_info=exc)
    error = TransportError("internal error")
    return CloseReason(code=1011, reason=str(error), error=error)


async def read_close_code(socket: WebSocket) -> int:
    """The code with which a client has closed that was gone when something was sent.

    Whether it closed or was lost is in its last message. Returns 1006 without one.
    """
    with anyio.move_on_after(DISCONNECT_TIMEOUT_S):
        try:
            while (message := await socket.receive())["type"] != "websocket.disconnect":
                pass
            return int(message.get("code", 1005))
        except RuntimeError:
            pass  # that message has been read
    return 1006


async def close(socket: WebSocket, end: Close) -> None:
    """Sends the last unit and closes, within CLOSE_TIMEOUT_S."""
    with anyio.move_on_after(CLOSE_TIMEOUT_S):  # a client that reads nothing blocks a send
        try:
            for part in end.unit:
                await socket.send_bytes(part)  # type: ignore[arg-type]  # see MessageSender
            await socket.close(end.code, end.reason)
        except (WebSocketDisconnect, RuntimeError):
            pass  # the client left meanwhile


async def reject(
    socket: WebSocket,
    error: TransportError,
    *,
    client: Client,
    observer: Observer,
) -> None:
    """Ends a socket before its first message. It is accepted, so that it can receive the error."""
    reason = close_reason_for(error)
    session = observer.connected(client, anyio.current_time())
    report_refused(client, session, error, code=reason.code)
    await socket.accept()
    await close(socket, build_close(reason.code, reason.reason, last=reason.last))


def _leaves(exc: Exception) -> Iterator[Exception]:
    if isinstance(exc, ExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc
