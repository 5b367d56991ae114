"""The sessions of a transport replica, for the list that operators read.

Tested in `tests/deployments/observability/test_session_reports.py`.
"""

from msgspec import Struct

from transport.observer import Client, NoObserver, SentChunk, SessionEnd


class SessionReport(Struct, frozen=True, kw_only=True):
    """A session as its transport replica sees it."""

    transport: str  # the replica's id
    kind: str
    token: str | None
    trace_id: str | None
    sent_chunks: int = 0
    sent_frames: int = 0
    sent_bytes: int = 0


class SessionReports:
    """An `Observer` that keeps a report of each open session."""

    def __init__(self, *, transport: str) -> None:
        self._transport = transport
        self._open: dict[str, ClientReport] = {}

    def get(self, session_id: str) -> SessionReport | None:
        """The session's report now; None for a session that is not open."""
        if (client := self._open.get(session_id)) is None:
            return None
        return SessionReport(
            transport=self._transport,
            kind=client.client.kind,
            token=client.client.token,
            trace_id=client.client.trace_id,
            sent_chunks=client.num_chunks,
            sent_frames=client.num_frames,
            sent_bytes=client.num_bytes,
        )

    def connected(self, client: Client, now_s: float) -> "ClientReport":
        return ClientReport(self._open, client)

    def lagged(self, lag_s: float) -> None: ...


class ClientReport(NoObserver):
    """A `SessionObserver` that counts what one client received."""

    def __init__(self, open_sessions: dict[str, "ClientReport"], client: Client) -> None:
        self._open = open_sessions
        self.client = client
        self.num_chunks = self.num_frames = self.num_bytes = 0

    def opened(self, now_s: float, session_id: str, *, width: int, height: int) -> None:
        self._open[session_id] = self

    def sent(self, chunk: SentChunk) -> None:
        self.num_chunks += 1
        self.num_frames += chunk.num_frames
        self.num_bytes += chunk.num_bytes

    def closed(self, now_s: float, end: SessionEnd) -> None:
        if end.session_id is not None:
            self._open.pop(end.session_id, None)
