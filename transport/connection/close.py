"""How a socket ends: its code, its reason, and what of it the client is told."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect

from transport.wire.errors import TransportError, truncate_reason
from transport.wire.messages import encode_message, error_message

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 5.0


@dataclass(slots=True, frozen=True)
class CloseReason:
    """Why a socket closes."""

    code: int
    reason: str
    error: TransportError | None = None
    client_left: bool = False


def close_reason_for(exc: Exception) -> CloseReason:
    """What a failure of some tasks means. Of an unexpected one the client sees no detail."""
    failures = list(_leaves(exc))
    for failure in failures:
        if isinstance(failure, WebSocketDisconnect):
            return CloseReason(failure.code, "the client left", client_left=True)
    for failure in failures:
        if isinstance(failure, TransportError):
            return CloseReason(failure.close_code or 1008, str(failure), failure)
    logger.error("a session failed", exc_info=exc)
    return CloseReason(1011, "internal error", TransportError("internal error"))


async def close(socket: WebSocket, ending: CloseReason, *, torn: bool = False) -> None:
    """Says why and closes. `torn`: a header is out and its payload is not."""
    if ending.client_left:
        return
    with anyio.move_on_after(CLOSE_TIMEOUT_S):  # a client that reads nothing blocks a send
        try:
            # After half a batch the next binary frame would be taken for the payload.
            if ending.error is not None and not torn:
                await socket.send_bytes(encode_message(error_message(ending.error)))
            await socket.close(ending.code, truncate_reason(ending.reason))
        except (WebSocketDisconnect, RuntimeError):
            pass  # the client left meanwhile


async def reject(socket: WebSocket, error: TransportError) -> None:
    """Ends a socket before its conversation begins."""
    logger.info("a socket was turned away: %s", error)
    await socket.accept()  # a refused handshake could not say why
    await close(socket, close_reason_for(error))


def _leaves(exc: Exception) -> Iterator[Exception]:
    if isinstance(exc, ExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc
