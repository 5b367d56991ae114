"""Those that wait for one group. Tested in `tests/deployments/test_group_sessions.py`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from deployments.sessions.admission import Demand
from deployments.sessions.lease_reply import AskAgain, Full, Waiting
from deployments.sessions.line import Line

NOTICE_S = 1.0  # between two looks at a waiting client's estimate


@dataclass(slots=True, eq=False)
class WaitingClient:
    """One in the line. Without a demand it is a suspended session that wants its memory back."""

    demand: Demand | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # its position, or it has left
    is_aside: bool = False  # a session whose client is away: it waits, and not in the line


class WaitingClients:
    """The clients of a `Line`, each of which waits for a change of its place."""

    def __init__(
        self, *, max_waiting: int, hold_s: float, group_id: str, clock: Callable[[], float]
    ) -> None:
        """A client is asked to ask again after `hold_s`."""
        self.line = Line(max_waiting=max_waiting)
        self._hold_s = hold_s
        self._group_id = group_id
        self._clock = clock
        self._clients: dict[str, WaitingClient] = {}

    def __len__(self) -> int:
        return len(self.line)

    def __contains__(self, client_id: str) -> bool:
        return client_id in self._clients

    def in_order(self) -> list[tuple[str, Demand | None]]:
        """The first one first. None stands for a suspended session."""
        in_line = (name for name, client in self._clients.items() if not client.is_aside)
        names = sorted(in_line, key=self.line.position)
        return [(name, self._clients[name].demand) for name in names]

    def join(self, client_id: str, demand: Demand) -> None:
        """Add a client. Raises LineFull; see `Line.join`."""
        if demand.returning:
            self.line.join_first(client_id, now=self._clock())
        else:
            self.line.join(client_id, now=self._clock(), waited_s=demand.waited_s)
        self._add(client_id, WaitingClient(demand))

    def join_suspended(self, session_id: str) -> None:
        """Add a suspended session. One that waits is left as it is."""
        if session_id not in self._clients:
            self.line.join_first(session_id, now=self._clock())
            self._add(session_id, WaitingClient())

    def step_aside(self, session_id: str) -> None:
        """Let those behind a suspended session go first. An unknown one is ignored."""
        client = self._clients.get(session_id)
        if client is not None and client.demand is None and not client.is_aside:
            client.is_aside = True
            self.line.leave(session_id)
            self._tell()

    def step_back(self, session_id: str) -> None:
        """Put a session that has stepped aside in front of the line again."""
        client = self._clients.get(session_id)
        if client is not None and client.is_aside:
            client.is_aside = False
            self.line.join_first(session_id, now=self._clock())
            self._tell()

    def leave(self, client_id: str) -> None:
        """Remove a client. An unknown one is ignored."""
        if client := self._clients.pop(client_id, None):
            self.line.leave(client_id)
            client.changed.set()
            self._tell()

    async def wait(self, client_id: str) -> AsyncIterator[Waiting | AskAgain]:
        """The client's places, until it has left the line; the last may be that it asks again."""
        last, until = None, self._clock() + self._hold_s
        while client := self._clients.get(client_id):
            if (left_s := until - self._clock()) <= 0:
                yield AskAgain(self._group_id)
                return
            if (status := self._status(client_id)) != last:
                yield (last := status)
                continue  # it may have been admitted meanwhile
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, NOTICE_S)):
                    await client.changed.wait()
            client.changed.clear()

    async def wait_until_left(self, session_id: str) -> None:
        """Returns when a suspended session has left the line."""
        while client := self._clients.get(session_id):
            await client.changed.wait()
            client.changed.clear()

    def full(self) -> Full:
        """The answer to a client for which the line has no place."""
        reason = f"every world is taken, and {len(self.line)} clients wait"
        return Full(reason, self.line.retry_after_s(self._clock()))

    def _add(self, client_id: str, client: WaitingClient) -> None:
        self._clients[client_id] = client
        self._tell()  # it may be in front of others

    def _tell(self) -> None:
        for client in self._clients.values():
            client.changed.set()

    def _status(self, client_id: str) -> Waiting:
        position = self.line.position(client_id)
        estimate_s = self.line.estimate_s(position, self._clock())
        return Waiting(position, None if estimate_s is None else round(estimate_s))
