"""Moves paused sessions to host memory. Tested in `tests/deployments/test_group_sessions.py`."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from deployments.sessions.admission import Admission

logger = logging.getLogger(__name__)


class Suspender:
    """Has a group's worker suspend the sessions that `Admission` chooses."""

    def __init__(
        self,
        admission: Admission,
        suspend: Callable[[str], Awaitable[bool]] | None,
        *,
        clock: Callable[[], float],
        changed: Callable[[], object],
    ) -> None:
        """`suspend` returns True when a session's memory is free, or False if it keeps its memory.

        None: it would free none. `changed` is called after memory has been freed.
        """
        self._admission = admission
        self._suspend_world = suspend
        self._clock = clock
        self._changed = changed
        self._running: dict[str, asyncio.Task[None]] = {}

    def suspend_paused(self) -> None:
        """Suspend the sessions that have been paused for too long. Called every second or so."""
        for session_id in self._admission.to_suspend(self._clock()):
            self._suspend(session_id)

    def make_room(self, session_id: str) -> bool:
        """Have a suspended session's memory freed. True once it is: the session is active then."""
        others = self._admission.room_for(session_id)
        for other in others or ():
            self._suspend(other)
        if others == []:
            self._admission.move(session_id, "active", self._clock())
        return others == []

    def _suspend(self, session_id: str) -> None:
        if self._suspend_world is not None and session_id not in self._running:
            task = asyncio.create_task(self._suspend_and_note(session_id, self._suspend_world))
            self._running[session_id] = task

    async def _suspend_and_note(
        self, session_id: str, suspend: Callable[[str], Awaitable[bool]]
    ) -> None:
        try:
            is_free = await suspend(session_id)
        except Exception:  # the session keeps its memory
            if self._admission.state(session_id) is not None:
                logger.exception("session %s could not be suspended", session_id)
            is_free = False
        finally:
            del self._running[session_id]
        if self._admission.state(session_id) != "paused":
            return  # a step came meanwhile, or the session has ended
        now = self._clock()
        if is_free:
            self._admission.move(session_id, "suspended", now)
            self._changed()
        else:  # its pause begins anew; an update might suspend it again at once, without end
            self._admission.move(session_id, "active", now)
            self._admission.move(session_id, "paused", now)
