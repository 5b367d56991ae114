"""The worlds of the cluster as the transport room wants them: leases on replica groups."""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ReplicaState  # type: ignore[attr-defined]

from deployments.config import ServiceConfig
from deployments.world_group import Lease
from deployments.world_rank import Refusal, SessionEnded, ignore_unretrieved
from transport.wire.errors import Busy, Refused, WorldFailed, WorldLost
from transport.wire.messages import Queued, Warming
from transport.wire.world import OnWait, WorldInfo, WorldSpec

NOTICE_S = 0.5  # how often a waiting client is told where it stands
STATUS_S = 1.0  # how often Serve's controller is asked whether a group is up

logger = logging.getLogger(__name__)


class LeasedSession:
    """One open world: a lease that is held, and the rank that plays it."""

    def __init__(self, lease: Lease, stream: Any, *, config: ServiceConfig) -> None:
        """``stream`` is the rest of the lease call, a DeploymentResponseGenerator."""
        self.id = lease.session_id
        self._rank = lease.rank
        self._stream = stream
        self._step_timeout_s = config.step_timeout_s
        self._pictures: set[asyncio.Task[NDArray[np.uint8]]] = set()  # that are on their way
        self._lost = asyncio.create_task(self._wait_for_end())
        self._touching = asyncio.create_task(self._keep_touching(config.lease_ttl_s / 3))

    async def open(self, spec: WorldSpec, image: NDArray[np.uint8]) -> None:
        refusal: Refusal | None = await self._call(self._rank.open, spec, image)
        if refusal is not None:
            raise Refused(refusal.text, field=refusal.field)

    async def step(
        self, actions: Sequence[str], *, prompt: str | None, time_to_underrun_s: float
    ) -> Awaitable[NDArray[np.uint8]]:
        # Asked for without waiting for the step, which saves a round trip.
        reply = self._rank.fetch.remote(self.id)
        await self._call(self._rank.step, list(actions), prompt, time_to_underrun_s)
        pictures = asyncio.create_task(self._answer(reply))
        ignore_unretrieved(pictures)
        self._pictures.add(pictures)
        pictures.add_done_callback(self._pictures.discard)
        return pictures

    async def lost(self) -> str:
        return await asyncio.shield(self._lost)

    def close(self) -> None:
        for pictures in self._pictures:
            pictures.cancel()
        self._touching.cancel()
        self._lost.cancel()
        cancel(self._stream)

    async def _call(self, method: Any, *args: Any) -> Any:
        """A direct call of the rank: it keeps working while the group's replica drains."""
        return await self._answer(method.remote(self.id, *args))

    async def _answer(self, reply: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._step_timeout_s):
                return await reply
        except TimeoutError as exc:
            raise WorldLost(f"the world did not answer for {self._step_timeout_s:g} s") from exc
        except SessionEnded as exc:
            raise WorldLost("the world has ended") from exc
        except RayTaskError as exc:
            logger.exception("session %s: the world raised", self.id)
            raise WorldFailed("the world failed") from exc
        except RayError as exc:
            logger.warning("session %s: %s", self.id, exc)
            raise WorldLost("the world's process died") from exc

    async def _wait_for_end(self) -> str:
        try:
            async for _ in self._stream:
                pass
        except RequestCancelledError:
            return "closed"  # by us
        except (RayError, RayServeException) as exc:
            logger.warning("session %s: %s", self.id, exc)
            return "the world's process died"
        return "the world has ended"

    async def _keep_touching(self, every_s: float) -> None:
        """A client may rest, or wait for acks; its world stays while its socket does."""
        while True:
            await asyncio.sleep(every_s)
            self._rank.touch.remote(self.id)


class Readiness:
    """Whether a replica group is up, for all that ask in this process."""

    def __init__(self, deployment: str) -> None:
        self._deployment = deployment
        self._known = False
        self._next = 0.0
        self._asking = asyncio.Lock()

    async def ask(self) -> bool:
        """Of Serve's controller, at most once in STATUS_S; its silence changes nothing."""
        loop = asyncio.get_running_loop()
        async with self._asking:
            if loop.time() >= self._next:
                with suppress(RayError, RayServeException):
                    self._known = await asyncio.to_thread(is_running, self._deployment)
                self._next = loop.time() + STATUS_S
        return self._known


def is_running(deployment: str) -> bool:
    """Whether any application of the cluster has a running replica of ``deployment``."""
    for application in serve.status().applications.values():
        status = application.deployments.get(deployment)
        if status is not None and status.replica_states.get(ReplicaState.RUNNING, 0) > 0:
            return True
    return False


class LeasedWorld:
    """Opens worlds on whichever replica group has room."""

    def __init__(
        self, group: DeploymentHandle[Any], info: WorldInfo, config: ServiceConfig
    ) -> None:
        # Through gRPC, a caller that was killed is noticed within milliseconds.
        self._group = group.options(stream=True, _by_reference=False)
        self.info = info
        self._config = config
        self._readiness = Readiness(group.deployment_name)
        self._waiting: dict[object, None] = {}  # in the order they came

    async def open(
        self, spec: WorldSpec, image: NDArray[np.uint8], *, on_wait: OnWait
    ) -> LeasedSession:
        stream: Any = self._group.lease.remote()
        try:
            lease = await self._first_item(stream, on_wait)
            session = LeasedSession(lease, stream, config=self._config)
        except BaseException:
            cancel(stream)
            raise
        try:
            await session.open(spec, image)
        except BaseException:
            session.close()
            raise
        return session

    async def ready(self) -> bool:
        return await self._readiness.ask()

    async def _first_item(self, stream: Any, on_wait: OnWait) -> Lease:
        first: asyncio.Future[Lease] = asyncio.ensure_future(anext(stream))
        ignore_unretrieved(
            first
        )  # Ray turns a cancellation into an error, when nobody waits any more
        ticket = object()
        self._waiting[ticket] = None
        try:
            await self._wait(first, ticket, on_wait)
            return first.result()
        except BackPressureError as exc:
            raise Busy("every world is taken, and the queue is full") from exc
        except (RayError, RayServeException, StopAsyncIteration) as exc:
            raise WorldLost("the world died while it was opened") from exc
        finally:
            del self._waiting[ticket]
            first.cancel()

    async def _wait(self, first: "asyncio.Future[Lease]", ticket: object, on_wait: OnWait) -> None:
        """Tell a client where it stands until ``first`` is there. Raises Busy at its limit.

        Waiting in the queue has a clock of its own, which starts when the warm-up is over.
        """
        loop = asyncio.get_running_loop()
        since, was_ready = loop.time(), False
        while not (await asyncio.wait([first], timeout=NOTICE_S))[0]:
            ready = await self.ready()
            if ready and not was_ready:
                since, was_ready = loop.time(), True
            position = list(self._waiting).index(ticket) + 1
            await on_wait(Queued(position) if ready else Warming())
            limit = self._config.queue_timeout_s if ready else self._config.warm_up_timeout_s
            if loop.time() - since > limit and not first.done():
                what = "every world is taken" if ready else "the world is still warming up"
                raise Busy(f"{what}; gave up after {limit:g} s")


def cancel(stream: Any) -> None:
    """End a lease call at its other end, which leaving the stream would not do."""
    with suppress(RayError, RayServeException):  # of a call that never reached a replica
        stream.cancel()
