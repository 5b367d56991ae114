"""The registry of a replica group's sessions, from reservation to end."""

from dataclasses import dataclass


@dataclass(slots=True)
class SessionRecord:
    """One session of the group."""

    session_id: str
    touched: float  # when a client last used it
    opened: bool = False  # its world exists


class SessionRegistry:
    """Decides which sessions live. The caller frees the worlds of those that ended.

    Every `now` is in seconds, of one monotonic clock.
    """

    def __init__(self, *, ttl_s: float) -> None:
        """A session ends when it has not been touched for more than `ttl_s` seconds."""
        self.ttl_s = ttl_s
        self._records: dict[str, SessionRecord] = {}

    def __len__(self) -> int:
        return len(self._records)

    def get(self, session_id: str) -> SessionRecord | None:
        """The record of a live session, or None."""
        return self._records.get(session_id)

    def reserve(self, session_id: str, now: float) -> None:
        """Add a session whose world is not open yet. It expires like an open one."""
        self._records[session_id] = SessionRecord(session_id, now)

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
        """Remove and return the session's record; None if it is unknown."""
        return self._records.pop(session_id, None)

    def expire_idle(self, now: float) -> list[SessionRecord]:
        """Remove and return the sessions whose idle time exceeds `ttl_s`."""
        idle = [r for r in self._records.values() if now - r.touched > self.ttl_s]
        for record in idle:
            del self._records[record.session_id]
        return idle
