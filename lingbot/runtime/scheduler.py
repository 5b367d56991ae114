"""The order in which rank 0 executes waiting entries. Pure: no thread, no clock, no tensor."""

from collections.abc import Callable
from itertools import count
from typing import Generic, NamedTuple, NewType, TypeVar

Entry = TypeVar("Entry")
Ticket = NewType("Ticket", int)


class Waiting(NamedTuple, Generic[Entry]):
    deadline: float
    entry: Entry


class Scheduler(Generic[Entry]):
    """Waiting entries, the earliest deadline first and ties by arrival.

    Every deadline passes at last, so that every entry gets its turn. Times are seconds of one
    monotonic clock, the caller's. One thread at a time may call it.
    """

    def __init__(
        self, *, heartbeat: Callable[[], Entry] | None = None, heartbeat_s: float = 0.0
    ) -> None:
        """`heartbeat` creates the entry that is next after `heartbeat_s` without any other."""
        self._heartbeat = heartbeat
        self._heartbeat_s = heartbeat_s
        self._waiting: dict[Ticket, Waiting[Entry]] = {}  # in order of arrival
        self._tickets = count()
        self._idle_since: float | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: Entry, *, deadline: float) -> Ticket:
        """Queue an entry; the ticket cancels it."""
        ticket = Ticket(next(self._tickets))
        self._waiting[ticket] = Waiting(deadline, entry)
        return ticket

    def cancel(self, ticket: Ticket) -> bool:
        """Remove an entry. False if it has been returned or cancelled before."""
        return self._waiting.pop(ticket, None) is not None

    def next(self, now: float) -> Entry | None:
        """Remove and return the most urgent entry, or a heartbeat; None while neither is there.

        After None, call again when an entry has been added, or after `wait_s`.
        """
        if self._waiting:
            self._idle_since = None
            ticket = min(self._waiting, key=lambda ticket: self._waiting[ticket].deadline)
            return self._waiting.pop(ticket).entry
        if self._idle_since is None:
            self._idle_since = now
        if self._heartbeat is None or now - self._idle_since < self._heartbeat_s:
            return None
        self._idle_since = now
        return self._heartbeat()

    def wait_s(self, now: float) -> float | None:
        """Seconds until the next heartbeat; None without heartbeats."""
        if self._heartbeat is None:
            return None
        since = now if self._idle_since is None else self._idle_since
        return max(0.0, since + self._heartbeat_s - now)
