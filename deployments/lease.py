"""The cluster's worlds as the transport room sees them: leases on replica groups."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException, RequestCancelledError
from ray.serve.handle import DeploymentHandle

from deployments.calls import call_detached, cancel
from deployments.config import ServiceConfig
from deployments.encoded_prompt import EncodedPrompt, warn_of_truncation
from deployments.group_memory import GroupMemory
from deployments.lease_request import LeaseRequest
from deployments.observability.session_reports import SessionReport
from deployments.prompt_encoder import PromptEncoder
from deployments.readiness import Readiness
from deployments.sessions.admission import Demand
from deployments.world_group import Lease
from transport.wire.errors import Refused, WorldFailed, WorldLost
from transport.wire.messages import Queued, Starting, WarningMessage
from transport.wire.world import OnWait, WorldInfo, WorldMemory, WorldSpec

Frames = NDArray[np.uint8]
Report = Callable[[str], SessionReport | None]

REPORT_PERIOD_S = 5.0  # between two reports to a rank; an operator's list is as old

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PendingFrames:
    """The frames of a chunk that has been denoised. Awaited once, or dropped."""

    receive: Callable[[], Coroutine[Any, Any, Frames]]

    def __await__(self) -> Generator[Any, Any, Frames]:
        return self.receive().__await__()


class LeasedSession:
    """One open world: its lease, and the rank that steps it."""

    def __init__(
        self,
        lease: Lease,
        stream: Any,
        *,
        config: ServiceConfig,
        prompts: PromptEncoder | None = None,
        report: Report = lambda session_id: None,
    ) -> None:
        """`stream` is the rest of the lease call, a DeploymentResponseGenerator.

        `prompts` is None where the rank encodes the prompts. `report` gives the rank what this
        replica knows of a session.
        """
        self.id = lease.session_id
        self._prompts = prompts
        self._contexts: dict[str, NDArray[np.float32]] = {}  # the last encoded prompt alone
        self._rank = lease.rank
        self._stream = stream
        self._step_timeout_s = config.step_timeout_s
        self._warnings: list[WarningMessage] = []
        self._ended_by_us: str | None = None  # the reason
        self._lost = asyncio.create_task(self._wait_for_end())
        self._report = report
        period_s = min(REPORT_PERIOD_S, config.lease_ttl_s / 3)
        self._touching = asyncio.create_task(self._touch_every(period_s))

    async def open(
        self,
        spec: WorldSpec,
        image: Frames,
        *,
        encoded: EncodedPrompt | None = None,
        on_wait: OnWait,
    ) -> None:
        """Raises Refused, WorldLost or WorldFailed. `on_wait` receives the place in the queue.

        `encoded` is the spec's prompt, or None if the rank encodes it.
        """
        if encoded is not None:
            self._accept(spec.prompt, encoded)
        replies = self._call(self._rank.open, spec, image, self._contexts.get(spec.prompt))
        while isinstance(reply := await self._next(replies), Queued):
            await on_wait(reply)
        if reply is not None:
            raise Refused(reply.text, field=reply.field)

    async def step(
        self, actions: Sequence[str], *, prompt: str | None, time_to_underrun_s: float
    ) -> Awaitable[Frames]:
        context = None if prompt is None else self._contexts.get(prompt)
        replies = self._call(self._rank.step, list(actions), prompt, time_to_underrun_s, context)
        while isinstance(await self._next(replies), Queued):
            pass  # it was suspended, and waits for its memory
        return PendingFrames(partial(self._next, replies))

    async def encode(self, prompt: str) -> None:
        """Raises Busy, WorldLost or WorldFailed; see `PromptEncoder.encode`."""
        assert self._prompts is not None
        self._accept(prompt, await self._prompts.encode(prompt))

    def take_warnings(self) -> list[WarningMessage]:
        warnings, self._warnings = self._warnings, []
        return warnings

    def pause(self) -> None:
        self._rank.pause.remote(self.id)

    async def lost(self) -> str:
        return await asyncio.shield(self._lost)

    def end(self, reason: str) -> None:
        """End the session as a lost world, with `reason` for its client."""
        self._ended_by_us = reason
        cancel(self._stream)

    def close(self) -> None:
        self._touching.cancel()
        self._lost.cancel()
        cancel(self._stream)

    def _accept(self, prompt: str, encoded: EncodedPrompt) -> None:
        """Keep a prompt's context for the call that it was encoded for."""
        self._contexts = {prompt: encoded.context}
        if warning := warn_of_truncation(encoded.num_truncated, "tokens"):
            self._warnings.append(warning)

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
            raise WorldLost(self._ended_by_us or "the world has ended") from exc
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
            return self._ended_by_us or "closed"
        except (RayError, RayServeException) as exc:
            logger.warning("session %s: %s", self.id, exc)
            return "the world's process died"
        return "the world has ended"

    async def _touch_every(self, period_s: float) -> None:
        """Keep the session while its socket is open. Its client may pause or owe acks."""
        while True:
            await asyncio.sleep(period_s)
            self._rank.touch.remote(self.id, self._report(self.id))


class LeasedWorld:
    """Opens worlds on any replica group that has room."""

    def __init__(
        self,
        group: DeploymentHandle[Any],
        info: WorldInfo,
        config: ServiceConfig,
        *,
        prompts: PromptEncoder | None = None,
        readiness: Readiness | None = None,
        notice_period_s: float = 0.5,
        report: Report = lambda session_id: None,
    ) -> None:
        """A waiting client gets a message every `notice_period_s`.

        `prompts` is None where the ranks encode the prompts. `report` describes a session of this
        replica to its rank.
        """
        self._memory = GroupMemory(group, ready=self.ready)
        # Through gRPC, a caller that was killed is noticed within milliseconds.
        self._group = group.options(stream=True, _by_reference=False)
        self.info = info
        self._sessions: WeakSet[LeasedSession] = WeakSet()
        self._closing: str | None = None
        self._config = config
        self._prompts = prompts
        self._readiness = readiness or Readiness(group.app_name, group.deployment_name)
        self._notice_period_s = notice_period_s
        self._report = report

    async def open(self, spec: WorldSpec, image: Frames, *, on_wait: OnWait) -> LeasedSession:
        """The prompt is encoded while the client waits for a lease."""

        async def wait_on(status: Queued | Starting) -> None:
            self._check_open()
            await on_wait(status)

        self._check_open()
        encoding = self._start_encoding(spec.prompt)
        try:
            session = await self._lease(spec, wait_on)
            self._sessions.add(session)
            try:
                self._check_open()
                encoded = await self._wait_for_prompt(encoding, wait_on)
                await session.open(spec, image, encoded=encoded, on_wait=wait_on)
            except BaseException:
                session.close()
                raise
        finally:
            if encoding is not None:
                encoding.cancel()
        return session

    def close(self, reason: str | None) -> None:
        """End all sessions with `reason`, and open no other one. None: sessions are opened.

        A client that waits gets it instead of its next status.
        """
        self._closing = reason
        if reason is not None:
            for session in set(self._sessions):
                session.end(reason)

    async def memory(self) -> WorldMemory | None:
        return await self._memory.ask()

    async def ready(self) -> bool:
        return await self._readiness.ask()

    def _check_open(self) -> None:
        if self._closing is not None:
            raise WorldLost(self._closing)

    def _start_encoding(self, prompt: str) -> "asyncio.Task[EncodedPrompt] | None":
        if self._prompts is None:
            return None
        encoding = asyncio.create_task(self._prompts.encode(prompt))
        encoding.add_done_callback(lambda done: done.cancelled() or done.exception())
        return encoding

    async def _wait_for_prompt(
        self, encoding: "asyncio.Task[EncodedPrompt] | None", on_wait: OnWait
    ) -> EncodedPrompt | None:
        """Send the client its status until the prompt is encoded. Raises the encoder's error."""
        if encoding is None:
            return None
        while not (await asyncio.wait([encoding], timeout=self._notice_period_s))[0]:
            await on_wait(Starting())
        return encoding.result()

    async def _lease(self, spec: WorldSpec, on_wait: OnWait) -> LeasedSession:
        request = LeaseRequest(
            self._group.lease,
            Demand(
                width=spec.width, height=spec.height, window=spec.window, realtime=spec.realtime
            ),
            readiness=self._readiness,
            config=self._config,
            on_wait=on_wait,
            notice_period_s=self._notice_period_s,
        )
        lease, stream = await request.lease()
        return LeasedSession(
            lease, stream, config=self._config, prompts=self._prompts, report=self._report
        )
