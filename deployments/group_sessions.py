"""A replica group's sessions, on rank 0: their admission, the line, suspension and ends."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from deployments.sessions.admission import Admission, Demand, GroupLimits, Reason, Size, State
from deployments.sessions.lease_reply import AskAgain, Full, Waiting
from deployments.sessions.line import Line, LineFull
from deployments.sessions.registry import SessionRecord, SessionRegistry

HOLD_S = 5.0  # how long a client waits in one group's line before it asks again
NOTICE_S = 1.0  # between two looks at a waiting client's estimate

logger = logging.getLogger(__name__)


class SessionStatus(Struct, frozen=True, kw_only=True):
    """One session of a group, for operators."""

    session_id: str
    state: Literal["opening", State]
    width: int
    height: int
    seconds: float  # since it was admitted
    num_chunks: int
    num_bytes: int  # planned, on one rank; in host memory if it is suspended


@dataclass(slots=True, eq=False)
class WaitingClient:
    """One in the line. Without a demand it is a suspended session that wants its memory back."""

    demand: Demand | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # its position, or it has left


class GroupSessions:
    """The sessions and the line of one group, in one event loop.

    `Admission` and `Line` decide. This class waits, and has the worker do what they decided.
    """

    def __init__(
        self,
        admission: Admission,
        *,
        ttl_s: float,
        bytes_of: Callable[[Demand], int],
        release: Callable[[str], object],
        suspend: Callable[[str], Awaitable[bool]] | None = None,
        group_id: str = "",
        hold_s: float = HOLD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A session ends when it has not been touched for `ttl_s`.

        `bytes_of` gives the bytes of a rank that a session takes. `release` frees the world of a
        session, if it has one. `suspend` returns True when a session's memory is free, or False if
        it keeps its memory; None: it would free none. `group_id` names the group to its clients.
        """
        self.admission = admission
        self.registry = SessionRegistry(ttl_s=ttl_s)
        self.line = Line(max_waiting=admission.limits.max_waiting)
        self._bytes_of = bytes_of
        self._release = release
        self._suspend_world = suspend
        self._group_id = group_id
        self._hold_s = hold_s
        self._clock = clock
        self._waiting: dict[str, WaitingClient] = {}
        self._ended: dict[str, asyncio.Event] = {}  # one for each session in the registry
        self._suspending: dict[str, asyncio.Task[None]] = {}

    # ---- from a client's call to its session

    async def lease(
        self, session_id: str, demand: Demand
    ) -> AsyncIterator[Waiting | AskAgain | Full | None]:
        """Wait for a place, and hold it until the session ends.

        Yields the client's place whenever it has changed, None once it is admitted, or the reason
        why it is not. Ends with the session.
        """
        if self._waiting or not self._admit(session_id, demand):
            try:
                self.line.join(session_id, now=self._clock(), waited_s=demand.waited_s)
            except LineFull:
                yield self._full()
                return
            client = self._enter_line(session_id, demand)
            try:
                self.update()
                async for reply in self._wait(session_id, client):
                    yield reply
            finally:
                self._give_up(session_id)
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
                self._give_up(session_id)
                yield AskAgain(self._group_id)
                return
            if (status := self._status(session_id)) != last:
                yield (last := status)
                continue  # it may have been admitted meanwhile
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, NOTICE_S)):
                    await client.changed.wait()
            client.changed.clear()

    def update(self) -> None:
        """Admit those in the line that fit, the first one first. Called after every change.

        A client that waits for speed lets clips pass: they take none of it.
        """
        for_clips = False
        for session_id in sorted(self._waiting, key=self.line.position):
            demand = self._waiting[session_id].demand
            if demand is None:
                if not self._make_room(session_id):
                    return
            elif for_clips and demand.realtime:
                continue
            elif self._admit(session_id, demand):
                if not for_clips:  # a clip that passes others is no sign for their waits
                    self.line.admitted(self._clock())
            elif self._refusal(demand) == "speed":
                for_clips = True
                continue
            else:
                return
            self._leave_line(session_id)

    def _admit(self, session_id: str, demand: Demand) -> bool:
        """Admit a client, if it fits."""
        if self._refusal(demand) is not None:
            return False
        size, num_bytes = (demand.width, demand.height), self._bytes_of(demand)
        self.admission.admit(session_id, size, num_bytes, realtime=demand.realtime)
        self.registry.reserve(
            session_id, self._clock(), size=size, num_bytes=num_bytes, realtime=demand.realtime
        )
        self._ended[session_id] = asyncio.Event()
        return True

    def _refusal(self, demand: Demand) -> Reason | None:
        size = demand.width, demand.height
        return self.admission.refusal(size, self._bytes_of(demand), realtime=demand.realtime)

    def _enter_line(self, session_id: str, demand: Demand | None = None) -> WaitingClient:
        """Note a client that has joined the line, perhaps in front of others."""
        client = self._waiting[session_id] = WaitingClient(demand)
        self._tell_line()
        return client

    def _leave_line(self, session_id: str) -> None:
        """Remove a client. An unknown one is ignored."""
        if client := self._waiting.pop(session_id, None):
            self.line.leave(session_id)
            client.changed.set()
            self._tell_line()

    def _give_up(self, session_id: str) -> None:
        """Remove a client that was not admitted: those behind it may need less."""
        if session_id in self._waiting:
            self._leave_line(session_id)
            self.update()

    def _tell_line(self) -> None:
        for client in self._waiting.values():
            client.changed.set()

    # ---- what changes the sessions

    def set_limits(self, limits: GroupLimits) -> None:
        """Replace the limits. Sessions beyond them go on."""
        self.admission.limits = limits
        self.line.max_waiting = limits.max_waiting
        self.update()

    def measure(self, size: Size, chunk_s: float) -> None:
        """Note the seconds that the group was busy with one chunk of this size."""
        self.admission.measure(size, chunk_s)
        self.update()

    def mark_opened(self, session_id: str) -> bool:
        """Note that the session's world is open. False if the session has ended meanwhile."""
        return self.registry.mark_opened(session_id, self._clock())

    def mark_faulty(self, session_id: str, fault: Literal["refused", "failed"]) -> None:
        """Note why the session will be ended by its client. An unknown session is ignored."""
        if record := self.registry.get(session_id):
            record.fault = fault

    def is_live(self, session_id: str) -> bool:
        return self.registry.get(session_id) is not None

    def is_clip(self, session_id: str) -> bool:
        """True for a session that nobody watches as it is made."""
        record = self.registry.get(session_id)
        return record is not None and not record.realtime

    def touch(self, session_id: str) -> None:
        """Restart the session's idle time. An unknown session is ignored."""
        self.registry.touch(session_id, self._clock())

    async def activate(self, session_id: str) -> bool:
        """Note that the session wants a chunk. A suspended one waits here for its memory.

        False if the session has ended.
        """
        self.touch(session_id)
        if self.admission.state(session_id) == "suspended":
            await self._wait_for_memory(session_id)
        record = self.registry.get(session_id)
        if record is None:
            return False
        record.num_chunks += 1
        self.admission.move(session_id, "active", self._clock())
        return True

    async def _wait_for_memory(self, session_id: str) -> None:
        """Returns when a suspended session is active, or has ended."""
        if session_id not in self._waiting:
            self.line.join_first(session_id, now=self._clock())
            self._enter_line(session_id)
            self.update()
        while waiting := self._waiting.get(session_id):
            await waiting.changed.wait()
            waiting.changed.clear()

    def pause(self, session_id: str) -> None:
        """Free the session's share of the speed until its next step."""
        self.touch(session_id)
        if self.admission.state(session_id) == "active":
            self.admission.move(session_id, "paused", self._clock())
            self.update()

    def suspend_paused(self) -> None:
        """Suspend the sessions that have been paused for too long. Called every second or so."""
        for session_id in self.admission.to_suspend(self._clock()):
            self._suspend(session_id)

    def end(self, session_id: str) -> None:
        """End a session or a wait. An unknown one is ignored."""
        self._give_up(session_id)
        if record := self.registry.end(session_id):
            self._free(record, record.end_reason)

    def expire_idle(self, now: float) -> None:
        """End the sessions that were idle for too long. `now` is a reading of the clock."""
        for record in self.registry.expire_idle(now):
            self._free(record, f"idle for over {self.registry.ttl_s:g} s")

    def _free(self, record: SessionRecord, reason: str) -> None:
        self._leave_line(record.session_id)
        self._ended.pop(record.session_id).set()
        self._release(record.session_id)
        self.admission.leave(record.session_id)
        if record.opened:
            logger.info("session %s closed: %s", record.session_id, reason)
        self.update()

    # ---- suspended sessions

    def _make_room(self, session_id: str) -> bool:
        """Have a suspended session's memory freed. True once it is: the session is active then."""
        others = self.admission.room_for(session_id)
        for other in others or ():
            self._suspend(other)
        if others == []:
            self.admission.move(session_id, "active", self._clock())
        return others == []

    def _suspend(self, session_id: str) -> None:
        if self._suspend_world is not None and session_id not in self._suspending:
            task = asyncio.create_task(self._suspend_and_note(session_id, self._suspend_world))
            self._suspending[session_id] = task

    async def _suspend_and_note(
        self, session_id: str, suspend: Callable[[str], Awaitable[bool]]
    ) -> None:
        try:
            is_free = await suspend(session_id)
        except Exception:  # the session keeps its memory
            if self.is_live(session_id):
                logger.exception("session %s could not be suspended", session_id)
            is_free = False
        finally:
            del self._suspending[session_id]
        if self.admission.state(session_id) != "paused":
            return  # a step came meanwhile, or the session has ended
        now = self._clock()
        if is_free:
            self.admission.move(session_id, "suspended", now)
            self.update()
        else:  # its pause begins anew; an update might suspend it again at once, without end
            self.admission.move(session_id, "active", now)
            self.admission.move(session_id, "paused", now)

    # ---- for operators and clients

    def log_speed(self) -> None:
        """Log how long a chunk of each size takes, by the warm-up."""
        for size, share in self.admission.shares().items():
            logger.info("a chunk of %dx%d takes %.0f %% of its duration", *size, 100 * share)

    def sessions(self) -> list[SessionStatus]:
        """All sessions that have been admitted and have not ended."""
        return [self._describe(record) for record in self.registry]

    def _describe(self, record: SessionRecord) -> SessionStatus:
        state = self.admission.state(record.session_id)
        assert state is not None
        return SessionStatus(
            session_id=record.session_id,
            state=state if record.opened else "opening",
            width=record.size[0],
            height=record.size[1],
            seconds=self._clock() - record.since,
            num_chunks=record.num_chunks,
            num_bytes=record.num_bytes,
        )

    def _status(self, session_id: str) -> Waiting:
        position, now = self.line.position(session_id), self._clock()
        estimate_s = self.line.estimate_s(position, now)
        return Waiting(position, None if estimate_s is None else round(estimate_s))

    def _full(self) -> Full:
        reason = f"every world is taken, and {len(self.line)} clients wait"
        return Full(reason, self.line.retry_after_s(self._clock()))
