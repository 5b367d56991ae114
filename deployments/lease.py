"""The worlds of the cluster as the transport room wants them: leases on replica groups."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ReplicaState  # type: ignore[attr-defined]

from deployments.config import ServiceConfig
from deployments.world_group import Lease
from deployments.world_rank import Refusal
from transport.errors import Busy, Refused, WorldLost
from transport.messages import Queued, Warming
from transport.world import OnWait, WorldInfo, WorldSpec

NOTICE_S = 0.5  # how often a waiting client is told where it stands

logger = logging.getLogger(__name__)


class LeasedSession:
    """One open world: a lease that is held, and the rank that plays it."""

    def __init__(
        self,
        lease: Lease,
        stream: Any,  # the rest of the lease call: a DeploymentResponseGenerator
        *,
        config: ServiceConfig,
    ) -> None:
        self.id = lease.session_id
        self._rank = lease.rank
        self._stream = stream
        self._step_timeout_s = config.step_timeout_s
        self._lost = asyncio.create_task(self._wait_for_end())
        self._touching = asyncio.create_task(self._keep_touching(config.lease_ttl_s / 3))

    async def open(self, spec: WorldSpec) -> None:
        refusal: Refusal | None = await self._call(self._rank.open, spec)
        if refusal is not None:
            raise Refused(refusal.text, field=refusal.field)

    async def step(self, actions: Sequence[str], *, prompt: str | None) -> NDArray[np.uint8]:
        frames: NDArray[np.uint8] = await self._call(self._rank.step, list(actions), prompt)
        return frames

    async def lost(self) -> str:
        return await asyncio.shield(self._lost)

    def close(self) -> None:
        self._touching.cancel()
        self._lost.cancel()
        cancel(self._stream)

    async def _call(self, method: Any, *args: Any) -> Any:
        """A direct call of the rank: it keeps working while the group's replica drains."""
        try:
            async with asyncio.timeout(self._step_timeout_s):
                return await method.remote(self.id, *args)
        except TimeoutError as exc:
            raise WorldLost(f"the world did not answer for {self._step_timeout_s:g} s") from exc
        except KeyError as exc:
            raise WorldLost("the world has ended") from exc
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


class LeasedWorld:
    """Opens worlds on whichever replica group has room."""

    def __init__(
        self, group: DeploymentHandle[Any], info: WorldInfo, config: ServiceConfig
    ) -> None:
        # Through gRPC, a caller that was killed is noticed within milliseconds.
        self._group = group.options(stream=True, _by_reference=False)
        self.info = info
        self._config = config
        self._waiting: dict[object, None] = {}  # in the order they came

    async def open(self, spec: WorldSpec, *, on_wait: OnWait) -> LeasedSession:
        ticket = object()
        self._waiting[ticket] = None
        stream: Any = self._group.lease.remote()
        try:
            lease = await self._first_item(stream, partial(self._notify, ticket, on_wait))
            session = LeasedSession(lease, stream, config=self._config)
        except BaseException:
            cancel(stream)
            raise
        finally:
            del self._waiting[ticket]
        try:
            await session.open(spec)
        except BaseException:
            session.close()
            raise
        return session

    async def ready(self) -> bool:
        """Whether a replica group is up. Asks Serve's controller, so call it now and then."""
        status = await asyncio.to_thread(serve.status)
        name = self._group.deployment_name
        groups = [
            app.deployments[name] for app in status.applications.values() if name in app.deployments
        ]
        return any(group.replica_states.get(ReplicaState.RUNNING, 0) > 0 for group in groups)

    async def _first_item(self, stream: Any, notify: Any) -> Lease:
        first: asyncio.Future[Lease] = asyncio.ensure_future(anext(stream))
        # Ray turns a cancellation into an error; where nobody waits any more, nobody asks for it.
        first.add_done_callback(lambda done: done.cancelled() or done.exception())
        waited = 0.0
        try:
            while True:
                done, _ = await asyncio.wait([first], timeout=NOTICE_S)
                if done:
                    return first.result()
                waited += NOTICE_S
                ready = await notify()
                limit = self._config.queue_timeout_s if ready else self._config.warm_up_timeout_s
                if waited > limit:
                    raise Busy(f"every world is taken; none became free in {limit:g} s")
        except BackPressureError as exc:
            raise Busy("every world is taken, and the queue is full") from exc
        except (RayError, RayServeException, StopAsyncIteration) as exc:
            raise WorldLost("the world died while it was opened") from exc
        finally:
            first.cancel()

    async def _notify(self, ticket: object, on_wait: OnWait) -> bool:
        """Tell a waiting client where it stands; whether a group is up at all."""
        ready = await self.ready()
        position = list(self._waiting).index(ticket) + 1
        await on_wait(Queued(position) if ready else Warming())
        return ready


def cancel(stream: Any) -> None:
    """End a lease call at its other end, which leaving the stream would not do."""
    with suppress(RayError, RayServeException):  # of a call that never reached a replica
        stream.cancel()
