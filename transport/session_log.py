"""One line when a session opens, and one when it closes; the report of a client without a session.

The values are fields of the log record, too, for formatters that write JSON.
Tested in `tests/transport/test_session_log.py`.
"""

import logging
from typing import Any

import anyio

from transport.observer import Client, SessionEnd, SessionObserver
from transport.wire.errors import TransportError

logger = logging.getLogger(__name__)


def log_opened(client: Client, session_id: str, *, width: int, height: int, output: str) -> None:
    """`output` is the format, or the length of a clip."""
    _log(
        client,
        f"session {session_id} opened: {width}x{height} as {output}",
        event="session_opened",
        session_id=session_id,
        width=width,
        height=height,
        output=output,
    )


def log_closed(client: Client, end: SessionEnd) -> None:
    """Logs the end of a client that had a session, and of one that had none."""
    _log(
        client,
        f"session {end.session_id or 'none'} closed, {end.code} {end.reason}: {end.num_chunks} "
        f"chunks, {end.num_frames} frames, {end.num_bytes} bytes in {end.duration_s:.1f} s",
        event="session_closed",
        session_id=end.session_id,
        label=end.label,
        code=end.code,
        reason=end.reason,
        duration_s=round(end.duration_s, 3),
        chunks=end.num_chunks,
        frames=end.num_frames,
        bytes=end.num_bytes,
    )


def report_refused(
    client: Client, observer: SessionObserver, error: TransportError, *, code: int
) -> None:
    """Log and report the end of a client that is refused before it asks for a world."""
    _report(client, observer, label=error.code, code=code, reason=str(error))


def report_left(client: Client, observer: SessionObserver) -> None:
    """Log and report the end of a client that has left while its request was read."""
    _report(client, observer, label="client_left", code=499, reason="the client left")


def _report(
    client: Client, observer: SessionObserver, *, label: str, code: int, reason: str
) -> None:
    end = SessionEnd(session_id=None, label=label, code=code, reason=reason, duration_s=0.0)
    log_closed(client, end)
    observer.closed(anyio.current_time(), end)


def _log(client: Client, text: str, **fields: Any) -> None:
    if client.token is not None:
        text += f", token {client.token}"
    if client.trace_id is not None:
        text += f", trace {client.trace_id}"
    fields |= {"kind": client.kind, "token": client.token, "trace_id": client.trace_id}
    logger.info("%s", text, extra={"fields": fields})
