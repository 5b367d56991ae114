"""The place of one world: the lease that it has, and the search for another one.

Tested in `tests/deployments/test_draining.py`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from deployments.config import ServiceConfig
from deployments.lease import TAKEN_OVER, HeldLease
from deployments.lease_request import start_clock
from deployments.place import Losses, find_again, take_place
from deployments.sessions.admission import Demand
from deployments.sessions.wait_clock import WaitClock
from transport.wire.errors import TransportError, WorldFailed, WorldLost
from transport.wire.messages import Queued, Starting
from transport.wire.world import OnWait

# A redeploy drains groups and transports at once. The client of a transport that drains resumes
# elsewhere, and takes its world along. Both drains are known within this time.
GIVE_UP_DELAY_S = 1.0
MAX_PAUSE_S = 8.0  # between two tries to find another place

logger = logging.getLogger(__name__)


class Leases(Protocol):
    """The source of leases."""

    @property
    def config(self) -> ServiceConfig: ...

    @property
    def notice_period_s(self) -> float: ...

    async def lease(
        self, demand: Demand, *, on_wait: OnWait, clock: WaitClock | None = None
    ) -> HeldLease: ...

    def running_groups(self) -> frozenset[str] | None:
        """None while they are not known."""
        ...


class Mover:
    """Keeps a world on a lease. A lease that is lost, or whose group drains, is replaced."""

    def __init__(
        self,
        leases: Leases,
        lease: HeldLease,
        *,
        demand: Callable[[], Demand],
        name: str,
        settle: Callable[[], Awaitable[None]],
        enter: Callable[[HeldLease], Awaitable[None]],
        chunk_index: Callable[[], int],
        on_wait: OnWait,
        on_fail: Callable[[TransportError], None],
        may_leave: Callable[[], bool],
    ) -> None:
        """The world is open on the `lease`. `demand` returns that of another one.

        `settle` returns when no call of the world runs. `enter` restores it on another lease.
        `chunk_index` is that of the next chunk to arrive. `on_wait` gets the client's status while
        the world has no place, and `on_fail` the error that ends it. `may_leave` returns whether
        the world should leave a group that drains. `name` is for the log.
        """
        self.lease: HeldLease | None = lease  # None while the world has no place
        self.error: TransportError | None = None  # why it has ended
        self._leases = leases
        self._demand = demand
        self._name = name
        self._settle = settle
        self._enter = enter
        self._chunk_index = chunk_index
        self._on_wait = on_wait
        self._on_fail = on_fail
        self._may_leave = may_leave
        self._is_lost = False  # the lease has ended, or does not answer
        self._finds_ahead = False  # `_leaving` looks for a place while the world has one
        self._losses = Losses()
        self._moving: asyncio.Task[None] | None = None  # no step begins meanwhile
        self._leaving: asyncio.Task[None] | None = None  # looks for another place
        self._watching = self._watch(lease)

    @property
    def can_detach(self) -> bool:
        """True while the world is where its lease is."""
        return self.lease is not None and not self._is_lost and self.error is None

    async def place(self) -> HeldLease:
        """The lease, once the world is not moving. Raises the reason if the world has ended."""
        while self._moving is not None and self.error is None:
            await asyncio.wait([self._moving])
        if self.error is not None:
            raise self.error
        assert self.lease is not None
        return self.lease

    def note_groups(self, running: frozenset[str]) -> None:
        """Leave a group that does not run any more: Serve drains it.

        While another group runs, this one is used until that one has room. If none runs, the world
        gives up its place after a moment: a new group may need the resources of this one.
        """
        lease = self.lease
        if lease is None or self._moving is not None or self.error is not None:
            return
        if not lease.group_id or lease.group_id in running or not self._may_leave():
            return
        if self._leaving is not None and self._finds_ahead == bool(running):
            return
        logger.info("session %s leaves group %s, which drains", self._name, lease.group_id)
        self._stop_leaving()
        self._finds_ahead = bool(running)
        self._leaving = asyncio.create_task(self._leave(lease))

    def note_loss(self, lease: HeldLease, error: TransportError) -> None:
        """Move if the lease is lost. A loss that is known already is ignored."""
        if lease is not self.lease or self._moving is not None or self.error is not None:
            return
        self._stop_leaving()
        logger.warning("session %s has lost its place: %s", self._name, error)
        self._is_lost = True
        self._moving = asyncio.create_task(self._move(lease, error))

    def adopt(self, lease: HeldLease) -> None:
        """The world is open on another lease. Called by `enter`."""
        self.lease, self._is_lost = lease, False

    def fail(self, error: TransportError) -> None:
        """End the world with an error."""
        if self.error is not None:
            return
        logger.warning("session %s is lost: %s", self._name, error)
        self._end(error)
        if self.lease is not None:
            self.lease.close(str(error))
        self._on_fail(error)

    def close(self) -> None:
        """End the world. Not async, so that nothing interrupts it. It may be called twice."""
        self._end(WorldLost("the session is closed"))
        if self.lease is not None:
            self.lease.close()

    def detach(self) -> None:
        """Leave the world to another lease, as far as it `can_detach` and is resumable."""
        lease = self.lease
        if lease is None or not (self.can_detach and self._demand().resumable):
            self.close()
            return
        self._end(WorldLost("the session is closed"))
        lease.detach()

    def _end(self, error: TransportError) -> None:
        self.error = self.error or error
        for task in (self._watching, self._leaving, self._moving):
            if task is not None and task is not asyncio.current_task():
                task.cancel()

    def _watch(self, lease: HeldLease) -> "asyncio.Task[None]":
        async def watch() -> None:
            if (running := self._leases.running_groups()) is not None:
                self.note_groups(running)
            end = await lease.ended()
            if lease is not self.lease:
                return  # it was left
            if end.is_taken_over:
                self.fail(end.error)
            else:
                self.note_loss(lease, end.error)

        return asyncio.create_task(watch())

    def _stop_leaving(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None

    async def _leave(self, old: HeldLease) -> None:
        """Leave a group that drains. Meanwhile the world goes on where it is."""
        place = None
        if self._finds_ahead:
            place = await self._find_ahead()
        else:
            await asyncio.sleep(GIVE_UP_DELAY_S)
        if not self._may_leave():
            self._leaving = None
            if place is not None:
                place.close()
            return
        self._moving, self._leaving = self._leaving, None
        await self._move(old, None, place=place)

    async def _find_ahead(self) -> HeldLease:
        """Another place. No error ends the search: nothing would begin it again."""
        pause_s = self._leases.notice_period_s
        while True:
            try:
                return await self._leases.lease(self._demand(), on_wait=ignore)
            except TransportError as exc:
                logger.info("session %s has no other place yet: %s", self._name, exc)
            except Exception:
                logger.exception("session %s looks for another place again", self._name)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def _move(
        self, old: HeldLease, error: TransportError | None, *, place: HeldLease | None = None
    ) -> None:
        """Move from the `old` lease. `error` is the loss that requires it; None: `old` drains."""
        try:
            if error is None:
                await self._settle()
            self._is_lost = True  # from the moment on at which the group ends the session
            if not await old.give_up():
                raise TAKEN_OVER.error
            self.lease = None
            await self._go_on(error, place)
        except TransportError as exc:
            self.fail(exc)
        except Exception:
            logger.exception("session %s could not be moved", self._name)
            self.fail(WorldFailed())
        finally:
            self._moving = None
            if place is not None and place is not self.lease:
                place.close()
        if self.lease is not None and self.error is None:
            self._watching.cancel()
            self._watching = self._watch(self.lease)

    async def _go_on(self, error: TransportError | None, place: HeldLease | None) -> None:
        """Restore the world in another place. Raises the reason if that is not possible."""
        clock, pause_s = start_clock(self._leases.config), self._leases.notice_period_s

        async def find() -> HeldLease:
            return await self._leases.lease(self._demand(), on_wait=self._on_wait, clock=clock)

        def note_loss(loss: TransportError) -> None:
            self.lease = None
            self._losses.note(loss, self._chunk_index())

        if error is not None:
            note_loss(error)
        await take_place(
            lambda: find_again(find, clock=clock, pause_s=pause_s),
            self._enter,
            note_loss=note_loss,
            pause_s=pause_s,
            place=place,
        )


async def ignore(status: Queued | Starting) -> None:
    """For a wait of which the client need not know."""
