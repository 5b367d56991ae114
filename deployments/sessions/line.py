"""The line of clients that wait for a place in a replica group."""

from collections import deque
from dataclasses import dataclass

NUM_INTERVALS = 16  # between admissions; their mean gives the estimate


class LineFull(Exception):
    """No further client may wait."""


@dataclass(slots=True, frozen=True)
class Place:
    """One client's place. `since` is when it asked first, here or elsewhere."""

    client_id: str
    since: float


class Line:
    """Clients by the time at which they asked first. Every `now` is in seconds of one clock."""

    def __init__(self, *, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._places: list[Place] = []
        self._intervals: deque[float] = deque(maxlen=NUM_INTERVALS)
        self._last_admitted: float | None = None

    def __len__(self) -> int:
        return len(self._places)

    def join(self, client_id: str, *, now: float, waited_s: float = 0.0) -> None:
        """Add a client, in front of those that asked later. Raises LineFull."""
        if len(self._places) >= self.max_waiting:
            raise LineFull
        self._places.append(Place(client_id, now - waited_s))
        self._places.sort(key=lambda place: place.since)

    def leave(self, client_id: str) -> None:
        """Remove a client that was admitted, gave up or went elsewhere. It may be unknown."""
        self._places = [place for place in self._places if place.client_id != client_id]

    def admitted(self, now: float) -> None:
        """Note that the first client was admitted, for the estimates."""
        if self._last_admitted is not None:
            self._intervals.append(now - self._last_admitted)
        self._last_admitted = now

    def position(self, client_id: str) -> int:
        """From 1. Raises ValueError for an unknown client."""
        return [place.client_id for place in self._places].index(client_id) + 1

    def estimate_s(self, position: int, now: float) -> float | None:
        """Seconds until this position is admitted, if places free up as before; None: unknown."""
        if not self._intervals or self._last_admitted is None:
            return None
        interval = sum(self._intervals) / len(self._intervals)
        return max(0.0, self._last_admitted + position * interval - now)
