"""A replica group's sessions on rank 0: who is admitted, who waits, and how each session ends."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from deployments.sessions.admission import Admission, Demand, GroupLimits, Size
from deployments.sessions.lease_reply import AskAgain, Full, Waiting
from deployments.sessions.line import Line, LineFull
from deployments.sessions.registry import SessionRecord, SessionRegistry

HOLD_S = 5.0  # how long a client waits in one group's line before it asks again
NOTICE_S = 1.0  # between two looks at a waiting client's estimate
RETRY_AFTER_S = 30  # where the group has not admitted anybody yet

logger = logging.getLogger(__name__)


class SessionStatus(Struct, frozen=True, kw_only=True):
    """One session of a group, for operators."""

    session_id: str
    state: Literal["opening", "active", "paused", "suspended"]
    width: int
    height: int
    seconds: float  # since it was admitted
    num_chunks: int
    num_bytes: int  # of a rank's memory, by the plan


@dataclass(slots=True, eq=False)
class WaitingClient:
    """A client in the line."""

    demand: Demand
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # it was admitted, or it left


class GroupSessions:
    """The sessions and the line of one group, in one event loop.

    `Admission` and `Line` decide. This class waits, and calls `release` for sessions that end.
    """

    def __init__(
        self,
        admission: Admission,
        *,
        ttl_s: float,
        bytes_of: Callable[[Size], int],
        release: Callable[[str], object],
        group_id: str = "",
        hold_s: float = HOLD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A session ends when it has not been touched for `ttl_s`.

        `bytes_of` gives a rank's bytes of a session of this size. `release` frees the world of a
        session, if it has one.
        """
        self.admission = admission
        self.registry = SessionRegistry(ttl_s=ttl_s)
        self.line = Line(max_waiting=admission.limits.max_waiting)
        self._bytes_of = bytes_of
        self._release = release
        self._group_id = group_id
        self._hold_s = hold_s
        self._clock = clock
        self._waiting: dict[str, WaitingClient] = {}
        self._ended: dict[str, asyncio.Event] = {}  # one for each session in the registry

    async def lease(
        self, session_id: str, demand: Demand
    ) -> AsyncIterator[Waiting | AskAgain | Full | None]:
        """Wait for a place, and hold it until the session ends.

        Yields the client's place whenever it has changed, None once it is admitted, or the reason
        why it is not. Ends with the session.
        """
        try:
            self.line.join(session_id, now=self._clock(), waited_s=demand.waited_s)
        except LineFull:
            yield self._full()
            return
        client = self._waiting[session_id] = WaitingClient(demand)
        self.admit()
        try:
            async for reply in self._wait(session_id, client):
                yield reply
        finally:
            self._leave_line(session_id)
        if ended := self._ended.get(session_id):
            yield None
            await ended.wait()

    async def _wait(
        self, session_id: str, client: WaitingClient
    ) -> AsyncIterator[Waiting | AskAgain]:
        """Ends when the client has been admitted, has left, or is asked to ask again."""
        last, until = None, self._clock() + self._hold_s
        while session_id in self._waiting:
            if (left_s := until - self._clock()) <= 0:
                self._leave_line(session_id)
                yield AskAgain(self._group_id)
                return
            if (status := self._status(session_id)) != last:
                yield (last := status)
                continue  # it may have been admitted meanwhile
            await wait_for(client.changed, timeout_s=min(left_s, NOTICE_S))

    def admit(self) -> None:
        """Admit those in the line that fit, the first one first.

        Who waits for speed lets clips pass, as these need none. Call this after every change.
        """
        only_clips = False
        for session_id in sorted(self._waiting, key=self.line.position):
            demand = self._waiting[session_id].demand
            if only_clips and demand.realtime:
                continue
            size = demand.width, demand.height
            num_bytes = self._bytes_of(size)
            reason = self.admission.refusal(size, num_bytes, realtime=demand.realtime)
            if reason is None:
                self.admission.admit(session_id, size, num_bytes, realtime=demand.realtime)
                self.registry.reserve(session_id, self._clock(), size=size)
                self._ended[session_id] = asyncio.Event()
                self._leave_line(session_id)
                self.line.admitted(self._clock())
            elif reason == "speed":
                only_clips = True
            else:
                return

    def set_limits(self, limits: GroupLimits) -> None:
        """Replace the limits. Sessions beyond them go on."""
        self.admission.limits = limits
        self.line.max_waiting = limits.max_waiting
        self.admit()

    def measure(self, size: Size, chunk_s: float) -> None:
        """Note the seconds that the group was busy with one chunk of this size."""
        self.admission.measure(size, chunk_s)
        self.admit()

    def is_live(self, session_id: str) -> bool:
        return self.registry.get(session_id) is not None

    def mark_opened(self, session_id: str) -> bool:
        """Note that the session's world is open. False if the session has ended meanwhile."""
        return self.registry.mark_opened(session_id, self._clock())

    def mark_faulty(self, session_id: str, fault: Literal["refused", "failed"]) -> None:
        """Note why the session will be ended by its client. An unknown session is ignored."""
        if record := self.registry.get(session_id):
            record.fault = fault

    def touch(self, session_id: str) -> None:
        """Restart the session's idle time. An unknown session is ignored."""
        self.registry.touch(session_id, self._clock())

    def step(self, session_id: str) -> None:
        """Note that the session asks for a chunk. It is active from now on."""
        if record := self.registry.get(session_id):
            record.touched, record.paused_since = self._clock(), None
            record.num_chunks += 1
            self.admission.move(session_id, "active")

    def pause(self, session_id: str) -> None:
        """Free the session's share of the speed until its next step."""
        record = self.registry.get(session_id)
        if record is not None and record.paused_since is None:
            record.touched = record.paused_since = self._clock()
            self.admission.move(session_id, "paused")
            self.admit()

    def end(self, session_id: str) -> None:
        """End a session or a wait. An unknown one is ignored."""
        self._leave_line(session_id)
        if record := self.registry.end(session_id):
            self._free(record, record.end_reason)

    def expire_idle(self, now: float) -> None:
        """End the sessions that were idle for too long. `now` is a reading of the clock."""
        for record in self.registry.expire_idle(now):
            self._free(record, f"idle for over {self.registry.ttl_s:g} s")

    def sessions(self) -> list[SessionStatus]:
        """All sessions that have been admitted and have not ended."""
        now = self._clock()
        return [
            SessionStatus(
                session_id=record.session_id,
                state=self._state(record),
                width=record.size[0],
                height=record.size[1],
                seconds=now - record.since,
                num_chunks=record.num_chunks,
                num_bytes=self._bytes_of(record.size),
            )
            for record in self.registry
        ]

    def _state(self, record: SessionRecord) -> Literal["opening", "active", "paused", "suspended"]:
        if not record.opened:
            return "opening"
        return "active" if record.paused_since is None else "paused"

    def _free(self, record: SessionRecord, reason: str) -> None:
        self._ended.pop(record.session_id).set()
        self._release(record.session_id)
        self.admission.leave(record.session_id)
        if record.opened:
            logger.info("session %s closed: %s", record.session_id, reason)
        self.admit()

    def _leave_line(self, session_id: str) -> None:
        """Remove a client. An unknown one is ignored."""
        if client := self._waiting.pop(session_id, None):
            self.line.leave(session_id)
            for one in (client, *self._waiting.values()):  # the others have new positions
                one.changed.set()

    def _status(self, session_id: str) -> Waiting:
        position = self.line.position(session_id)
        return Waiting(position, self._estimate_s(position))

    def _estimate_s(self, position: int) -> int | None:
        estimate_s = self.line.estimate_s(position, self._clock())
        return None if estimate_s is None else round(estimate_s)

    def _full(self) -> Full:
        estimate_s = self._estimate_s(len(self.line) + 1)
        reason = f"every world is taken, and {len(self.line)} clients wait"
        return Full(reason, max(1, estimate_s or RETRY_AFTER_S))


async def wait_for(event: asyncio.Event, *, timeout_s: float) -> None:
    """Wait for an event, which is cleared, or for the timeout."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
    event.clear()
