"""The line of clients that wait for a place in a replica group."""

import math
from bisect import insort
from collections import deque
from dataclasses import dataclass

NUM_INTERVALS = 16  # between admissions; their mean gives the estimate
UNKNOWN_RETRY_S = 10  # for clients that are turned away before the first admission
MAX_RETRY_S = 600


class LineFull(Exception):
    """No further client may wait."""


@dataclass(slots=True, frozen=True)
class LineEntry:
    """One client that waits. `since` is when it asked first, here or elsewhere."""

    client_id: str
    since: float


class Line:
    """Clients by the time at which they asked first. Every `now` is in seconds of one clock.

    They are admitted from the front, so that a client that needs much gets its turn, too.
    """

    def __init__(self, *, max_waiting: int) -> None:
        """`max_waiting` may be replaced at any time; it bounds the clients that join later."""
        self.max_waiting = max_waiting
        self._entries: list[LineEntry] = []
        self._intervals: deque[float] = deque(maxlen=NUM_INTERVALS)
        # The last admission, or the moment at which somebody began to wait after it
        self._since = -math.inf

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def first(self) -> str | None:
        """The client that is admitted next; None if nobody waits."""
        return self._entries[0].client_id if self._entries else None

    def join(self, client_id: str, *, now: float, waited_s: float = 0.0) -> None:
        """Add a client that is not admitted at once, in front of those that asked later.

        Raises LineFull, but not for a client that has waited before: its place was taken by others
        in the moment between.
        """
        if len(self._entries) >= self.max_waiting and not waited_s:
            raise LineFull
        self._insert(LineEntry(client_id, now - waited_s), now - waited_s)

    def join_first(self, session_id: str, *, now: float) -> None:
        """Add a session that was admitted before, in front of all clients.

        It wants its memory back, or comes from another group. It is never turned away. Several
        sessions keep their order.
        """
        self._insert(LineEntry(session_id, -math.inf), now)

    def rename(self, client_id: str, new_id: str) -> None:
        """Give a client's place to another id. An unknown client is ignored."""
        self._entries = [
            LineEntry(new_id, entry.since) if entry.client_id == client_id else entry
            for entry in self._entries
        ]

    def leave(self, client_id: str) -> None:
        """Remove a client that was admitted, gave up or went elsewhere. It may be unknown."""
        self._entries = [entry for entry in self._entries if entry.client_id != client_id]

    def admitted(self, now: float) -> None:
        """Note that a client of the line was admitted, for the estimates."""
        if math.isfinite(self._since):
            self._intervals.append(now - self._since)
        self._since = now

    def position(self, client_id: str) -> int:
        """From 1. Raises ValueError for an unknown client."""
        return [entry.client_id for entry in self._entries].index(client_id) + 1

    def estimate_s(self, position: int, now: float) -> float | None:
        """Seconds until this position is admitted, if places free up as before; None: unknown."""
        if not self._intervals:
            return None
        interval = sum(self._intervals) / len(self._intervals)
        return max(0.0, self._since + position * interval - now)

    def retry_after_s(self, now: float) -> int:
        """Whole seconds after which a client that is turned away may find a place, from 1."""
        estimate_s = self.estimate_s(len(self._entries) + 1, now)
        if estimate_s is None:
            return UNKNOWN_RETRY_S
        return min(MAX_RETRY_S, max(1, math.ceil(estimate_s)))

    def _insert(self, entry: LineEntry, began: float) -> None:
        if not self._entries:  # time in which nobody waits gives no estimate
            self._since = max(self._since, began)
        insort(self._entries, entry, key=lambda entry: entry.since)
