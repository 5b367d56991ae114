"""Those that wait for one group. Tested in `tests/deployments/test_kept_places.py`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from deployments.sessions.admission import Demand
from deployments.sessions.lease_reply import AskAgain, Full, Waiting
from deployments.sessions.line import Line, LineFull

HOLD_S = 5.0  # how long a client waits in one group's line before it asks again
# How long its place is kept then. Asking again takes some milliseconds, or up to a second under
# load. The place of a client that goes elsewhere can be idle for that time.
KEEP_S = 1.0
NOTICE_S = 1.0  # between two looks at a waiting client's estimate


@dataclass(slots=True, eq=False)
class WaitingClient:
    """One in the line. Without a demand it is a suspended session that wants its memory back."""

    demand: Demand | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # its position, or it has left
    is_aside: bool = False  # a session whose client is away: it waits, and not in the line
    is_kept: bool = False  # the place of a client that cannot be admitted now: see `is_kept`


class WaitingClients:
    """The clients of a `Line`, each of which waits for a change of its place."""

    def __init__(
        self,
        *,
        max_waiting: int,
        hold_s: float,
        keep_s: float,
        group_id: str,
        clock: Callable[[], float],
        changed: Callable[[], object],
    ) -> None:
        """A client is asked to ask again after `hold_s`, and its place is kept for `keep_s`.
        One whose group died gives way to the worlds that were there for twice as long.

        `changed` is called when a kept place is given up.
        """
        self.line = Line(max_waiting=max_waiting)
        # A session's place is free, and kept for a client that asks again. Nobody is sent away
        # meanwhile: each of those behind would keep it free for longer.
        self.keeps_free_place = False
        self._hold_s = hold_s
        self._keep_s = keep_s
        self._group_id = group_id
        self._clock = clock
        self._changed = changed
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

    def join(self, client_id: str, demand: Demand) -> Full | None:
        """Add a client, in the place that is kept for it if there is one.

        None, or the answer to a client for which the line has no place; see `Line.join`.
        """
        if demand.place and self._clients.pop(demand.place, None):
            self.line.rename(demand.place, client_id)
        elif demand.returning:
            self.line.join_first(client_id, now=self._clock())
        else:
            try:
                self.line.join(client_id, now=self._clock(), waited_s=demand.waited_s)
            except LineFull:
                reason = f"every world is taken, and {len(self.line)} clients wait"
                return Full(reason, self.line.retry_after_s(self._clock()))
        self._add(client_id, WaitingClient(demand, is_kept=demand.gives_way))
        if demand.gives_way:  # the worlds of its group ask again, too, and each may be late
            loop = asyncio.get_running_loop()
            loop.call_later(2 * self._keep_s, self._stop_giving_way, client_id)
        return None

    def is_kept(self, client_id: str) -> bool:
        """True for the place of a client that asks again, or gives way: it is not admitted now."""
        client = self._clients.get(client_id)
        return client is not None and client.is_kept

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
            left_s = until - self._clock()
            if left_s <= 0 and not self.keeps_free_place:
                yield AskAgain(self._group_id, self._keep_place(client_id))
                return
            if (status := self._status(client_id)) != last:
                yield (last := status)
                continue  # it may have been admitted meanwhile
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, NOTICE_S) if left_s > 0 else NOTICE_S):
                    await client.changed.wait()
            client.changed.clear()

    async def wait_until_left(self, session_id: str) -> None:
        """Returns when a suspended session has left the line."""
        while client := self._clients.get(session_id):
            await client.changed.wait()
            client.changed.clear()

    def _keep_place(self, client_id: str) -> str:
        """Keep the place of a client that asks again, under the id that this returns.

        It differs from the id of the call: `GroupSessions.leave` gets that one when the call ends.
        """
        place = f"{client_id} asks again"
        client = self._clients.pop(client_id)
        self.line.rename(client_id, place)
        self._clients[place] = WaitingClient(client.demand, is_kept=True)
        asyncio.get_running_loop().call_later(self._keep_s, self._give_up_place, place)
        return place

    def _stop_giving_way(self, client_id: str) -> None:
        if client := self._clients.get(client_id):
            client.is_kept = False
            self._changed()

    def _give_up_place(self, place: str) -> None:
        if place in self._clients:
            self.leave(place)
            self._changed()

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
