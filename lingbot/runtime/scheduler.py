"""The order in which rank 0 executes waiting entries. Pure: no thread, no clock, no tensor."""

import math
from collections.abc import Callable
from itertools import count
from typing import Generic, NamedTuple, NewType, TypeVar

Entry = TypeVar("Entry")
Ticket = NewType("Ticket", int)


class Waiting(NamedTuple, Generic[Entry]):
    owner: str
    deadline: float
    spacing_s: float
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
        self._spaced_is_running = False
        self._last_spaced_ended = -math.inf

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: Entry, *, owner: str, deadline: float, spacing_s: float = 0.0) -> Ticket:
        """Queue an entry of `owner`; the ticket cancels it.

        An entry with `spacing_s` is less urgent, and must not delay another entry together with
        its like. It is due `spacing_s` after `deadline`, and as long after the end of the last one.
        """
        ticket = Ticket(next(self._tickets))
        self._waiting[ticket] = Waiting(owner, deadline, spacing_s, entry)
        return ticket

    def cancel(self, ticket: Ticket) -> bool:
        """Remove an entry. False if it has been returned or cancelled before."""
        return self._waiting.pop(ticket, None) is not None

    def cancel_owner(self, owner: str) -> list[Entry]:
        """Remove and return all waiting entries of `owner`."""
        tickets = [ticket for ticket, one in self._waiting.items() if one.owner == owner]
        return [self._waiting.pop(ticket).entry for ticket in tickets]

    def position(self, owner: str) -> int | None:
        """The place of `owner` among the waiting entries with spacing; None without such an entry.

        The first place is 1.
        """
        spaced = [ticket for ticket, one in self._waiting.items() if one.spacing_s]
        owners = [self._waiting[ticket].owner for ticket in sorted(spaced, key=self._due)]
        return owners.index(owner) + 1 if owner in owners else None

    def next(self, now: float) -> Entry | None:
        """Remove and return the most urgent entry, or a heartbeat; None while neither is there.

        The entry that was returned before has been executed by now. After None, call again when an
        entry has been added, or after `wait_s`.
        """
        if self._spaced_is_running:
            self._last_spaced_ended, self._spaced_is_running = now, False
        if self._waiting:
            self._idle_since = None
            chosen = self._waiting.pop(min(self._waiting, key=self._due))
            self._spaced_is_running = chosen.spacing_s > 0
            return chosen.entry
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

    def _due(self, ticket: Ticket) -> float:
        waiting = self._waiting[ticket]
        if not waiting.spacing_s:
            return waiting.deadline
        return max(waiting.deadline, self._last_spaced_ended) + waiting.spacing_s
