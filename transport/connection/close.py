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

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 5.0


@dataclass(slots=True, frozen=True, kw_only=True)
class CloseReason:
    """Why a connection ends."""

    code: int
    reason: str
    error: TransportError | None = None
    client_left: bool = False

    @property
    def label(self) -> str:
        """The reason as one of few words."""
        if self.client_left:
            return "client_left"
        if self.error is not None:
            return self.error.code
        return "done" if self.code == 1000 else "cancelled"


def close_reason_for(exc: Exception) -> CloseReason:
    """The reason in an exception or a group of them. It hides the text of unexpected ones."""
    failures = list(_leaves(exc))
    for failure in failures:
        if isinstance(failure, WebSocketDisconnect):
            return CloseReason(code=failure.code, reason="the client left", client_left=True)
    for failure in failures:
        if isinstance(failure, TransportError):
            return CloseReason(code=failure.close_code or 1008, reason=str(failure), error=failure)
    logger.error("a session failed", exc_info=exc)
    error = TransportError("internal error")
    return CloseReason(code=1011, reason=str(error), error=error)


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
    await close(socket, build_close(reason.code, reason.reason, error=reason.error))


def _leaves(exc: Exception) -> Iterator[Exception]:
    if isinstance(exc, ExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc
