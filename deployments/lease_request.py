"""A client's request for a place in any replica group, until it has a lease.

Tested in `tests/deployments/test_lease_request.py`.
"""

import asyncio
import logging
from typing import Any

from msgspec.structs import replace
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, RayServeException

from deployments.calls import answer_of, call_detached, cancel
from deployments.config import ServiceConfig
from deployments.lease import end_of
from deployments.readiness import Readiness
from deployments.sessions.admission import Demand
from deployments.sessions.lease_reply import AskAgain, Ended, Full, NotHere, Waiting
from deployments.sessions.wait_clock import WaitClock
from deployments.world_group import Lease
from transport.wire.errors import Busy, SessionGone, WorldLost
from transport.wire.messages import Queued, Starting
from transport.wire.world import OnWait

RETRY_AFTER_S = 30  # used without an estimate from a group

logger = logging.getLogger(__name__)


class LeaseRequest:
    """Asks one group after the other. The client keeps the place that its wait has earned."""

    def __init__(
        self,
        lease: Any,
        demand: Demand,
        *,
        readiness: Readiness,
        config: ServiceConfig,
        on_wait: OnWait,
        notice_period_s: float,
        clock: WaitClock | None = None,
    ) -> None:
        """`lease` is the group's streaming method. `on_wait` gets the client's status.

        `clock` is that of a client that has asked before; None: it begins to wait now.
        """
        self._call = lease
        self._demand = demand
        self._readiness = readiness
        self._on_wait = on_wait
        self._notice_period_s = notice_period_s
        self._now = asyncio.get_running_loop().time
        self._next_notice = self._now() + notice_period_s
        self._stream: Any = None  # that of the call that runs, or has the lease
        self._place: Waiting | None = None  # in the line of the group that answered last
        self._clock = clock or start_clock(config)

    async def lease(self) -> tuple[Lease, Any]:
        """The lease, and the rest of the call that holds it.

        Raises Busy, WorldLost, or WorldFailed with the reason if Serve has given up the groups;
        SessionGone if there is no session to attach to, and TakenOver if another call attaches to
        it at the same time. No call remains if it raises or is cancelled.
        """
        while True:
            try:
                lease = await self._ask_once()
            except BaseException:
                if self._stream is not None:
                    cancel(self._stream)
                raise
            if lease is not None:
                return lease, self._stream

    def _next_demand(self) -> Demand:
        return replace(self._demand, waited_s=self._clock.waited_s(self._now()))

    async def _ask_once(self) -> Lease | None:
        """The lease of one call; None if the client should ask again."""
        self._stream = None
        try:
            self._stream = call_detached(self._call, self._next_demand())
            while True:
                match await self._next_reply(self._stream):
                    case Waiting() as place:
                        self._place = place
                    case AskAgain(group_id, kept):
                        self._demand = replace(
                            self._demand, last_group=group_id, place=kept, gives_way=False
                        )
                        return None
                    case NotHere():
                        raise SessionGone("this session is gone", field="resume")
                    case Ended() as end:  # another one attached before this call had the lease
                        raise end_of(end).error
                    case Full(reason, retry_after_s):
                        raise Busy(reason, retry_after_s=retry_after_s)
                    case lease:
                        assert isinstance(lease, Lease)
                        return lease
        except BackPressureError as exc:
            reason = "every world is taken, and the queue is full"
            raise Busy(reason, retry_after_s=RETRY_AFTER_S) from exc
        except RayActorError as exc:
            logger.info("a group ended while a client waited for it: %s", exc)
            self._place = None
            self._demand = replace(self._demand, gives_way=not self._demand.returning)
            await self._tell()
            await asyncio.sleep(self._notice_period_s)  # until Serve knows that it is gone
            return None
        except (RayError, RayServeException, StopAsyncIteration) as exc:
            await self._readiness.ask()  # raises the reason if Serve has given up
            raise WorldLost("the world died while it was opened") from exc

    async def _next_reply(self, stream: Any) -> Any:
        """The next reply of a call. Sends the client its status meanwhile."""
        reply = answer_of(anext(stream))  # a caller that gives up cancels the stream
        while not (await asyncio.wait([reply], timeout=self._next_notice - self._now()))[0]:
            await self._tell(unless=reply)
        return reply.result()

    async def _tell(self, *, unless: "asyncio.Future[Any] | None" = None) -> None:
        """Send the client its status. Raises Busy when it must give up.

        It need not give up once `unless` is done.
        """
        self._next_notice = self._now() + self._notice_period_s
        ready = await self._readiness.ask()
        starting = not ready or self._readiness.is_adding
        self._clock.note("starting" if starting else "queued", self._now())
        if starting or self._place is None:
            await self._on_wait(Starting())
        else:
            place = self._place
            await self._on_wait(Queued(place.position, True, place.estimate_s))
        reason = self._clock.give_up_reason(self._now())
        if reason is not None and not (unless and unless.done()):
            estimate_s = self._place and self._place.estimate_s
            raise Busy(reason, retry_after_s=max(1, estimate_s or RETRY_AFTER_S))


def start_clock(config: ServiceConfig) -> WaitClock:
    """The clock of a client that begins to wait now."""
    return WaitClock(
        queue_timeout_s=config.queue_timeout_s,
        warm_up_timeout_s=config.warm_up_timeout_s,
        now=asyncio.get_running_loop().time(),
    )
