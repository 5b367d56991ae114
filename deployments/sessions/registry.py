"""The registry of a replica group's sessions, from reservation to end."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

EndReason = Literal[
    "closed",  # by its transport, after its world was open
    "client_left",  # before that
    "refused",  # by the engine: a field of the init
    "failed",  # the engine raised
    "expired",  # its transport did not touch it for too long
]


@dataclass(slots=True)
class SessionRecord:
    """One session of the group."""

    session_id: str
    touched: float  # when a client last used it
    since: float  # when it was reserved
    size: tuple[int, int] = (0, 0)  # width, height
    num_bytes: int = 0  # of a rank's memory, by the plan
    opened: bool = False  # its world exists
    num_chunks: int = 0  # denoised
    fault: Literal["refused", "failed"] | None = None  # why it will end

    @property
    def end_reason(self) -> EndReason:
        """The reason of an end that its lease asked for."""
        return self.fault or ("closed" if self.opened else "client_left")


class SessionRegistry:
    """Decides which sessions live. The caller frees the worlds of those that ended.

    Every `now` is in seconds, of one monotonic clock.
    """

    def __init__(self, *, ttl_s: float) -> None:
        """A session ends when it has not been touched for more than `ttl_s` seconds."""
        self.ttl_s = ttl_s
        self._records: dict[str, SessionRecord] = {}
        self.ends: Counter[EndReason] = Counter()

    def __iter__(self) -> Iterator[SessionRecord]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def get(self, session_id: str) -> SessionRecord | None:
        """The record of a live session, or None."""
        return self._records.get(session_id)

    def reserve(
        self, session_id: str, now: float, *, size: tuple[int, int] = (0, 0), num_bytes: int = 0
    ) -> None:
        """Add a session whose world is not open yet. It expires like an open one."""
        self._records[session_id] = SessionRecord(session_id, now, now, size, num_bytes)

    def mark_opened(self, session_id: str, now: float) -> bool:
        """Note that the session's world is open. False if the session has ended meanwhile."""
        record = self._records.get(session_id)
        if record is None:
            return False
        record.opened, record.touched = True, now
        return True

    def touch(self, session_id: str, now: float) -> None:
        """Restart the session's idle time. An unknown session is ignored."""
        if record := self._records.get(session_id):
            record.touched = now

    def end(self, session_id: str) -> SessionRecord | None:
        """Remove and return the session's record; None if it is unknown. `ends` counts it."""
        record = self._records.pop(session_id, None)
        if record is not None:
            self.ends[record.end_reason] += 1
        return record

    def expire_idle(self, now: float) -> list[SessionRecord]:
        """Remove and return the sessions whose idle time exceeds `ttl_s`."""
        idle = [r for r in self._records.values() if now - r.touched > self.ttl_s]
        for record in idle:
            del self._records[record.session_id]
        self.ends["expired"] += len(idle)
        return idle
