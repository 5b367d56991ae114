"""The cluster's worlds as the transport room sees them: leases on replica groups."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from deployments.config import ServiceConfig
from deployments.group_memory import GroupMemory
from deployments.readiness import Readiness
from deployments.sessions.waiting import WaitingClient, WaitingLine
from deployments.world_group import Lease
from transport.wire.errors import Busy, Refused, WorldFailed, WorldLost
from transport.wire.messages import Queued, WarningMessage
from transport.wire.world import OnWait, WorldInfo, WorldMemory, WorldSpec

Frames = NDArray[np.uint8]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PendingFrames:
    """The frames of a chunk that has been denoised. Awaited once, or dropped."""

    receive: Callable[[], Coroutine[Any, Any, Frames]]

    def __await__(self) -> Generator[Any, Any, Frames]:
        return self.receive().__await__()


class LeasedSession:
    """One open world: its lease, and the rank that steps it."""

    def __init__(self, lease: Lease, stream: Any, *, config: ServiceConfig) -> None:
        """`stream` is the rest of the lease call, a DeploymentResponseGenerator."""
        self.id = lease.session_id
        self._rank = lease.rank
        self._stream = stream
        self._step_timeout_s = config.step_timeout_s
        self._warnings: list[WarningMessage] = []
        self._lost = asyncio.create_task(self._wait_for_end())
        self._touching = asyncio.create_task(self._touch_every(config.lease_ttl_s / 3))

    async def open(self, spec: WorldSpec, image: Frames, *, on_wait: OnWait) -> None:
        """Raises Refused, WorldLost or WorldFailed. `on_wait` receives the place in the queue."""
        replies = self._call(self._rank.open, spec, image)
        while isinstance(reply := await self._next(replies), Queued):
            await on_wait(reply)
        if reply is not None:
            raise Refused(reply.text, field=reply.field)

    async def step(
        self, actions: Sequence[str], *, prompt: str | None, time_to_underrun_s: float
    ) -> Awaitable[Frames]:
        replies = self._call(self._rank.step, list(actions), prompt, time_to_underrun_s)
        await self._next(replies)
        return PendingFrames(partial(self._next, replies))

    def take_warnings(self) -> list[WarningMessage]:
        warnings, self._warnings = self._warnings, []
        return warnings

    async def lost(self) -> str:
        return await asyncio.shield(self._lost)

    def close(self) -> None:
        self._touching.cancel()
        self._lost.cancel()
        cancel(self._stream)

    def _call(self, method: Any, *args: Any) -> Any:
        """Call a method of the rank, which streams its replies, directly.

        This works while the group's replica drains.
        """
        return call_detached(method, self.id, *args)

    async def _next(self, replies: Any) -> Any:
        """The next reply of a call, behind its warnings. Raises WorldLost or WorldFailed."""
        while isinstance(reply := await self._reply(replies), WarningMessage):
            self._warnings.append(reply)
        return reply

    async def _reply(self, replies: Any) -> Any:
        try:
            async with asyncio.timeout(self._step_timeout_s):
                return await (await anext(replies))
        except TimeoutError as exc:
            raise WorldLost(f"the world did not answer for {self._step_timeout_s:g} s") from exc
        except StopAsyncIteration as exc:
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

    async def _touch_every(self, period_s: float) -> None:
        """Keep the session while its socket is open. Its client may pause or owe acks."""
        while True:
            await asyncio.sleep(period_s)
            self._rank.touch.remote(self.id)


class LeasedWorld:
    """Opens worlds on any replica group that has room."""

    def __init__(
        self,
        group: DeploymentHandle[Any],
        info: WorldInfo,
        config: ServiceConfig,
        *,
        readiness: Readiness | None = None,
        notice_period_s: float = 0.5,
    ) -> None:
        """A waiting client gets a message every `notice_period_s`."""
        self._memory = GroupMemory(group, ready=self.ready)
        # Through gRPC, a caller that was killed is noticed within milliseconds.
        self._group = group.options(stream=True, _by_reference=False)
        self.info = info
        self._config = config
        self._readiness = readiness or Readiness(group.app_name, group.deployment_name)
        self._notice_period_s = notice_period_s
        self._line = WaitingLine(
            queue_timeout_s=config.queue_timeout_s, warm_up_timeout_s=config.warm_up_timeout_s
        )

    async def open(self, spec: WorldSpec, image: Frames, *, on_wait: OnWait) -> LeasedSession:
        stream = call_detached(self._group.lease)
        try:
            lease = await self._first_item(stream, on_wait)
            session = LeasedSession(lease, stream, config=self._config)
        except BaseException:
            cancel(stream)
            raise
        try:
            await session.open(spec, image, on_wait=on_wait)
        except BaseException:
            session.close()
            raise
        return session

    async def memory(self) -> WorldMemory | None:
        return await self._memory.ask()

    async def ready(self) -> bool:
        return await self._readiness.ask()

    async def _first_item(self, stream: Any, on_wait: OnWait) -> Lease:
        first: asyncio.Future[Lease] = asyncio.ensure_future(anext(stream))
        # A caller that gives up cancels the stream, which ends this future with an error. To cancel
        # the future itself would make Ray's callback for a late answer fail.
        first.add_done_callback(lambda done: done.cancelled() or done.exception())
        client = self._line.join(asyncio.get_running_loop().time())
        try:
            await self._wait(first, client, on_wait)
            return first.result()
        except BackPressureError as exc:
            raise Busy("every world is taken, and the queue is full") from exc
        except (RayError, RayServeException, StopAsyncIteration) as exc:
            await self.ready()  # raises the reason if Serve has given up
            raise WorldLost("the world died while it was opened") from exc
        finally:
            self._line.leave(client)

    async def _wait(
        self, first: "asyncio.Future[Lease]", client: WaitingClient, on_wait: OnWait
    ) -> None:
        """Send the client its status until `first` is done. Raises Busy when it must give up."""
        now = asyncio.get_running_loop().time
        while not (await asyncio.wait([first], timeout=self._notice_period_s))[0]:
            ready = await self.ready()
            await on_wait(self._line.status(client, ready=ready, now=now()))
            reason = self._line.give_up_reason(client, ready=ready, now=now())
            if reason is not None and not first.done():
                raise Busy(reason)


def call_detached(method: Any, *args: Any) -> Any:
    """Call a method outside of the context of this process's request.

    When a client leaves, Serve cancels its request and all calls made in the request's context. An
    error of such a call could arrive before the cancellation, and look like a failed world. A lease
    ends by `LeasedSession.close` instead, and the calls of a session end with it.
    """
    return Context().run(method.remote, *args)


def cancel(stream: Any) -> None:
    """Cancel a lease call on the group's side. Leaving the iteration would not do that."""
    with suppress(RayError, RayServeException):  # raised if the call never reached a replica
        stream.cancel()
