"""Metrics of a transport replica's clients.

Tested in `tests/deployments/observability/test_session_metrics.py`.
"""

from collections import Counter
from typing import Literal

from deployments.observability.metrics import create
from transport.observer import Client, Kind, SentChunk, SessionEnd, State
from transport.wire.messages import Queued, Starting

TRANSPORT_METRICS = (
    "clients",
    "opens",
    "refusals",
    "closes",
    "wait_seconds",
    "first_chunk_seconds",
    "chunk_period_ratio",
    "control_to_frame_seconds",
    "stalls",
    "stall_seconds",
    "dropped_frames",
    "sent_frames",
    "sent_bytes",
    "event_loop_lag_seconds",
)


Source = Literal["attached", "handed_over", "stored", "gone"]  # of a resumed session's world


class ResumeMetrics:
    """One for each process."""

    def __init__(self) -> None:
        self._resumes = create("lingbot_resumes")

    def count(self, source: Source) -> None:
        """Note that a session was resumed, or that its token opens nothing any more."""
        self._resumes.inc(1, tags={"source": source})


class TransportMetrics:
    """An `Observer`. One for each process."""

    def __init__(self) -> None:
        self.by_name = {name: create(f"lingbot_{name}") for name in TRANSPORT_METRICS}
        self._lag = self.by_name["event_loop_lag_seconds"]
        self._clients: Counter[tuple[Kind, str]] = Counter()

    def connected(self, client: Client, now_s: float) -> "ClientMetrics":
        return ClientMetrics(self, client)

    def lagged(self, lag_s: float) -> None:
        self._lag.observe(lag_s)

    def count(self, kind: Kind, state: str, more: int) -> None:
        """Note that so many more clients are in this state."""
        self._clients[kind, state] += more
        tags = {"kind": kind, "state": state}
        self.by_name["clients"].set(self._clients[kind, state], tags=tags)


class ClientMetrics:
    """A `SessionObserver`: one client's."""

    def __init__(self, metrics: TransportMetrics, client: Client) -> None:
        self._metrics = metrics
        self._kind = client.kind
        self._tags = {"kind": client.kind}
        self._state = "connected"
        self._asked_s: float | None = None
        self._last_sent_s: float | None = None  # None: the next period begins with a chunk
        self._dropped_frames = 0
        metrics.count(self._kind, self._state, 1)

    def asked(self, now_s: float) -> None:
        self._asked_s = now_s
        self._move("waiting")

    def waits(self, status: Queued | Starting) -> None:
        self._move("starting" if isinstance(status, Starting) else "waiting")

    def opened(self, now_s: float, session_id: str, *, width: int, height: int) -> None:
        self._inc("opens", 1, kind=self._kind)
        self._note_wait(now_s)
        self._move("active")

    def moved(self, state: State) -> None:
        self._last_sent_s = None  # a pause is no long period
        self._move(state)

    def sent(self, chunk: SentChunk) -> None:
        if self._state in ("waiting", "starting"):  # its world had to wait for a place
            self._move("active")
        self._inc("sent_frames", chunk.num_frames, kind=self._kind)
        self._inc("sent_bytes", chunk.num_bytes, kind=self._kind)
        if self._kind == "clip":  # nobody waits for one of its chunks
            return
        if chunk.index == 0 and self._asked_s is not None:
            self._observe("first_chunk_seconds", chunk.sent_s - self._asked_s)
        if self._last_sent_s is not None:
            period_s = chunk.sent_s - self._last_sent_s
            self._observe("chunk_period_ratio", period_s / chunk.media_s)
            self._inc("stall_seconds", chunk.stall_s)
            self._inc("stalls", chunk.stall_s > chunk.media_s / chunk.num_frames)
        self._last_sent_s = chunk.sent_s
        if chunk.event_s is not None:
            self._observe("control_to_frame_seconds", chunk.first_byte_s - chunk.event_s)
        self._inc("dropped_frames", chunk.dropped_frames - self._dropped_frames)
        self._dropped_frames = chunk.dropped_frames

    def closed(self, now_s: float, end: SessionEnd) -> None:
        if end.session_id is None:
            self._inc("refusals", 1, kind=self._kind, reason=end.label)
            self._note_wait(now_s)
        else:
            self._inc("closes", 1, kind=self._kind, reason=end.label)
        self._metrics.count(self._kind, self._state, -1)

    def _move(self, state: str) -> None:
        if state == self._state:
            return
        self._metrics.count(self._kind, self._state, -1)
        self._metrics.count(self._kind, state, 1)
        self._state = state

    def _note_wait(self, now_s: float) -> None:
        if self._asked_s is not None:
            self._metrics.by_name["wait_seconds"].observe(now_s - self._asked_s, tags=self._tags)

    def _inc(self, name: str, value: float, **tags: str) -> None:
        if value > 0:  # Ray rejects an increment of zero
            self._metrics.by_name[name].inc(value, tags=tags)

    def _observe(self, name: str, value: float) -> None:
        self._metrics.by_name[name].observe(max(0.0, value))
