"""A replica group's sessions, on rank 0: their admission, the line, leases and ends."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from deployments.session_status import SessionStatus, describe_session
from deployments.sessions.admission import Admission, Demand, GroupLimits, Reason, Size
from deployments.sessions.lease_reply import AskAgain, Ended, Full, Leased, NotHere, Waiting
from deployments.sessions.line import Line
from deployments.sessions.registry import EndReason, SessionRecord, SessionRegistry
from deployments.suspender import Suspender
from deployments.waiting_clients import HOLD_S, KEEP_S, WaitingClients

SECRET_BYTES = 16  # of a session

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Holder:
    """The call that holds a session. `ended` is None if the call itself gave the session up."""

    call_id: str
    ended: "asyncio.Future[Ended | None]"

    def end(self, reason: Ended | None) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)


class GroupSessions:
    """The sessions and the line of one group, in one event loop.

    `Admission`, `Line` and `SessionRegistry` decide. This class waits, and has the worker do what
    they decided. A session that no call holds is detached: it is in the registry alone.
    """

    def __init__(
        self,
        admission: Admission,
        *,
        ttl_s: float,
        grace_s: float = 0.0,
        bytes_of: Callable[[Demand], int],
        release: Callable[[str], object],
        suspend: Callable[[str], Awaitable[bool]] | None = None,
        finish_calls: Callable[[str], Awaitable[object]],
        group_id: str = "",
        hold_s: float = HOLD_S,
        keep_s: float = KEEP_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ttl_s` and `grace_s` are those of `SessionRegistry`.

        `bytes_of` gives the bytes of a rank that a session takes. `release` frees the world of a
        session, if it has one. `suspend` is that of `Suspender`. `finish_calls` returns when no
        call works on a session's world. `group_id` names the group to its clients.
        """
        self.admission = admission
        self.registry = SessionRegistry(ttl_s=ttl_s, grace_s=grace_s)
        self.waiting = WaitingClients(
            max_waiting=admission.limits.max_waiting,
            hold_s=hold_s,
            keep_s=keep_s,
            group_id=group_id,
            clock=clock,
            changed=self.update,
        )
        self.suspender = Suspender(admission, suspend, clock=clock, changed=self.update)
        self._bytes_of = bytes_of
        self._release = release
        self._finish_calls = finish_calls
        self._group_id = group_id
        self._clock = clock
        self._holders: dict[str, Holder] = {}  # by session; a detached one has none

    # ---- from a client's call to its session

    async def lease(
        self, call_id: str, demand: Demand
    ) -> AsyncIterator[Waiting | AskAgain | Full | NotHere | Leased | Ended]:
        """Wait for a place, or attach to a session, and hold it until the lease ends.

        Yields the client's place whenever it has changed, then the lease, or the reason why there
        is none. Ends with the lease, with a last reply unless its holder ended it. `call_id` is the
        id of a new session. The call does not notice that its caller has gone: see `leave`.
        """
        session_id = call_id
        if demand.resume is not None:
            session_id, secret = demand.resume
            if not self._attach(session_id, secret, call_id):
                yield NotHere(self._group_id)
                return
        elif demand.gives_way or len(self.waiting) or not self._admit(call_id, demand):
            if full := self.waiting.join(call_id, demand):
                yield full
                return
            try:
                self.update()
                async for reply in self.waiting.wait(call_id):
                    yield reply
            finally:
                self._give_up(call_id)
        if (holder := self._holders.get(session_id)) and holder.call_id == call_id:
            async for answer in self._hold(session_id, holder):
                yield answer

    async def _hold(self, session_id: str, holder: Holder) -> AsyncIterator[Leased | Ended]:
        record = self.registry.get(session_id)
        assert record is not None
        lease = Leased(
            session_id=session_id,
            epoch=record.epoch,
            secret=record.secret,
            attached=record.epoch > 1,
            age_s=self._clock() - record.since,
        )
        await self._finish_calls(session_id)  # those of the lease before
        if not holder.ended.done():
            yield lease
        if (reason := await holder.ended) is not None:
            yield reason

    def _attach(self, session_id: str, secret: str, call_id: str) -> bool:
        """Have the call hold a session, which another call may hold until now."""
        if self.registry.attach(session_id, secret, self._clock()) is None:
            return False
        self._drop_holder(session_id, Ended("taken_over"))
        self.admission.attach(session_id)
        self._add_holder(session_id, call_id)
        logger.info("session %s attached", session_id)
        self.update()
        return True

    @property
    def line(self) -> Line:
        """The order of those that wait."""
        return self.waiting.line

    def update(self) -> None:
        """Admit those in the line that fit, the first one first. Called after every change.

        A client that waits for speed lets clips pass: they take none of it. A kept place stops
        those behind it, as a client does that does not fit.
        """
        for_clips = self.waiting.keeps_free_place = False
        for session_id, demand in self.waiting.in_order():
            if demand is None:
                if not self.suspender.make_room(session_id):
                    return
            elif for_clips and demand.realtime:
                continue
            elif not self.waiting.is_kept(session_id) and self._admit(session_id, demand):
                if not for_clips:  # a clip that passes others is no sign for their waits
                    self.line.admitted(self._clock())
            elif self._refusal(demand) == "speed":
                for_clips = True
                continue
            else:
                self.waiting.keeps_free_place = self._refusal(demand) is None
                return
            self.waiting.leave(session_id)

    def _admit(self, session_id: str, demand: Demand) -> bool:
        """Admit a client, if it fits. Detached sessions make room for its bytes."""
        num_bytes = self._bytes_of(demand)
        for name in self.admission.to_evict(demand, num_bytes, self.registry.detached()):
            self._remove(name, "evicted")
        if self._refusal(demand) is not None:
            return False
        self.admission.admit(session_id, demand, num_bytes)
        self.registry.reserve(
            session_id,
            self._clock(),
            size=demand.size,
            num_bytes=num_bytes,
            realtime=demand.realtime,
            resumable=demand.resumable,
            age_s=demand.age_s,
            secret=secrets.token_urlsafe(SECRET_BYTES),
        )
        self._add_holder(session_id, session_id)
        return True

    def _refusal(self, demand: Demand) -> Reason | None:
        return self.admission.refusal(demand, self._bytes_of(demand))

    def _add_holder(self, session_id: str, call_id: str) -> None:
        ended = asyncio.get_running_loop().create_future()
        self._holders[session_id] = Holder(call_id, ended)

    def _drop_holder(self, session_id: str, reason: Ended | None) -> None:
        """End the call that holds the session, if there is one."""
        self.waiting.leave(session_id)  # a step of that call may wait for the session's memory
        if holder := self._holders.pop(session_id, None):
            holder.end(reason)

    def _give_up(self, session_id: str) -> None:
        """Remove a client that was not admitted: those behind it may need less."""
        if session_id in self.waiting:
            self.waiting.leave(session_id)
            self.update()

    # ---- what changes the sessions

    def set_limits(self, limits: GroupLimits) -> None:
        """Replace the limits. Sessions beyond them go on."""
        self.admission.limits = limits
        self.line.max_waiting = limits.max_waiting
        self.update()

    def measure(self, size: Size, denoising_s: float, decoding_s: float = 0.0) -> None:
        """Note the seconds that the group was busy with one chunk of this size."""
        self.admission.measure(size, denoising_s, decoding_s)
        self.update()

    def mark_opened(self, session_id: str) -> bool:
        """Note that the session's world is open. False if the session has ended meanwhile."""
        record = self.registry.get(session_id)
        if record is not None and not record.opened:
            logger.info("session %s opened, %d in all", session_id, len(self.registry))
        return self.registry.mark_opened(session_id, self._clock())

    def mark_faulty(self, session_id: str, fault: Literal["refused", "failed"]) -> None:
        """Note why the session will be ended by its client. An unknown session is ignored.

        One that has a world keeps it when another world is refused.
        """
        record = self.registry.get(session_id)
        if record is not None and (fault == "failed" or not record.opened):
            record.fault = fault

    def is_held(self, session_id: str, epoch: int) -> bool:
        """True while the lease of this number holds the session."""
        return self.registry.is_held(session_id, epoch)

    def is_live(self, session_id: str) -> bool:
        """True for a session that has not ended, whether it is held or detached."""
        return self.registry.get(session_id) is not None

    def is_clip(self, session_id: str) -> bool:
        """True for a session that nobody watches as it is made."""
        record = self.registry.get(session_id)
        return record is not None and not record.realtime

    def touch(self, session_id: str, epoch: int) -> None:
        """Restart the session's idle time. One that this lease does not hold is ignored."""
        if self.is_held(session_id, epoch):
            self.registry.touch(session_id, self._clock())

    async def activate(self, session_id: str, epoch: int) -> bool:
        """Note that the session wants a chunk. A suspended one waits here for its memory.

        False if this lease does not hold it, or no longer.
        """
        is_held = await self.claim_memory(session_id, epoch)
        if is_held:
            self.admission.move(session_id, "active", self._clock())
        return is_held

    async def claim_memory(self, session_id: str, epoch: int) -> bool:
        """Wait for the memory of a suspended session, which is paused then. False as above."""
        self.touch(session_id, epoch)
        if self.is_held(session_id, epoch) and self.admission.state(session_id) == "suspended":
            self.waiting.join_suspended(session_id)
            self.update()
            await self.waiting.wait_until_left(session_id)
            if self.is_held(session_id, epoch):
                self.admission.move(session_id, "paused", self._clock())
        return self.is_held(session_id, epoch)

    def count_chunk(self, session_id: str) -> None:
        """Note that a chunk has been generated. An unknown session is ignored."""
        if record := self.registry.get(session_id):
            record.num_chunks += 1

    def pause(self, session_id: str, epoch: int) -> None:
        """Free the session's share of the speed until its next step.

        A suspended one that waits for its memory lets the others go first until `unpause`.
        """
        self.touch(session_id, epoch)
        if not self.is_held(session_id, epoch):
            return
        if self.admission.state(session_id) == "active":
            self.admission.move(session_id, "paused", self._clock())
        self.waiting.step_aside(session_id)
        self.update()

    def unpause(self, session_id: str, epoch: int) -> None:
        """Have a suspended session wait for its memory in front of the line again."""
        if self.is_held(session_id, epoch):
            self.waiting.step_back(session_id)
            self.update()

    # ---- ends of leases and sessions

    def leave(self, call_id: str) -> None:
        """End a call's wait, or the lease that it holds. An unknown call is ignored.

        The session of the lease is detached, or ends if it is not resumable.
        """
        self._give_up(call_id)
        for session_id, holder in self._holders.items():
            if holder.call_id == call_id:
                self._detach(session_id)
                return

    def end(self, session_id: str, epoch: int, has_moved: bool = False) -> bool:
        """End a session of which this is the last lease. True if another socket has its world.

        `has_moved`: its holder goes on with the world in another group.
        """
        is_taken_over = self.registry.is_taken_over(session_id, epoch)
        if not is_taken_over and (record := self.registry.get(session_id)):
            record.has_moved = has_moved
            self._end(session_id, record.end_reason)
        return is_taken_over

    def age_and_epoch(self, session_id: str) -> tuple[float, int]:
        """Seconds since a session was reserved first, and its leases so far."""
        record = self.registry.get(session_id)
        return (0.0, 1) if record is None else (self._clock() - record.since, record.epoch)

    def find(self, session_id: str, secret: str) -> bool:
        """True if there is such a session, and its world is or was open."""
        return self.registry.find(session_id, secret) is not None

    def withdraw(self, session_id: str, secret: str) -> bool:
        """Take a session from its lease, for `end_moved` or `give_back`. False as in `find`."""
        if self.registry.withdraw(session_id, secret) is None:
            return False
        self._drop_holder(session_id, Ended("taken_over"))
        self.admission.detach(session_id, self._clock())
        self.update()
        return True

    def give_back(self, session_id: str, secret: str) -> None:
        """Let a withdrawn session wait for its client again. An unknown one is ignored."""
        self.registry.give_back(session_id, secret, self._clock())

    def end_moved(self, session_id: str) -> None:
        """End a session whose world has been handed over. An unknown one is ignored."""
        self._end(session_id, "moved")

    def expire_idle(self, now: float) -> None:
        """End the leases that were idle for too long, and the sessions that were not resumed."""
        for record in self.registry.idle(now):
            self.registry.num_expired += 1
            self._detach(record.session_id, reason="expired")
        for record in self.registry.forgotten(now):
            self._end(record.session_id, "not_resumed")

    def _detach(self, session_id: str, reason: EndReason | None = None) -> None:
        """Take a session from its lease. One that cannot live without it ends for `reason`.

        None: the call that holds it has given it up.
        """
        now = self._clock()
        if self.registry.detach(session_id, now):
            self._drop_holder(session_id, None if reason is None else Ended("detached"))
            self.admission.detach(session_id, now)
            logger.info("session %s detached: %s", session_id, reason or "its lease ended")
            self.update()
        elif record := self.registry.get(session_id):
            self._end(session_id, reason or record.end_reason)

    def _end(self, session_id: str, reason: EndReason) -> None:
        if self._remove(session_id, reason):
            self.update()

    def _remove(self, session_id: str, reason: EndReason) -> bool:
        """End a session, and admit nobody yet. False for an unknown one."""
        if record := self.registry.end(session_id, reason):
            asked_for = reason == record.end_reason
            self._drop_holder(session_id, None if asked_for else Ended(reason))
            self._release(session_id)
            self.admission.leave(session_id)
            if record.opened:
                why = self.registry.describe_end(reason)
                logger.info("session %s closed: %s", session_id, why)
        return record is not None

    # ---- for operators and clients

    def sessions(self) -> list[SessionStatus]:
        """All sessions that have been admitted and have not ended."""
        return [self._describe(record) for record in self.registry]

    def _describe(self, record: SessionRecord) -> SessionStatus:
        state = self.admission.state(record.session_id)
        assert state is not None
        return describe_session(record, state, now=self._clock())
