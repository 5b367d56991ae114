"""A lease on a replica group: the session that it holds there, and the calls of its rank."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException, RequestCancelledError

from deployments.calls import answer_of, call_detached, cancel
from deployments.config import ServiceConfig
from deployments.observability.session_reports import SessionReport
from deployments.rank_replies import Chunk, HandedOver, Opened
from deployments.refusal import Refusal
from deployments.sessions.lease_reply import Ended
from deployments.sessions.resume_token import ResumeToken
from deployments.world_group import Lease
from lingbot.runtime.snapshot import Snapshot
from transport.wire.errors import Refused, TakenOver, TransportError, WorldFailed, WorldLost
from transport.wire.messages import Queued, WarningMessage
from transport.wire.world import OnWait, WorldSpec

Frames = NDArray[np.uint8]
Context = NDArray[np.float32]
Contexts = Mapping[str, Context]  # encoded prompts by text

REPORT_PERIOD_S = 5.0  # between two reports to a rank; an operator's list is as old
LAST_WORD_S = 1.0  # the time for which the end of a lease may come after the end of its rank

logger = logging.getLogger(__name__)


class LeaseEnd(Struct, frozen=True):
    """Why a lease has ended, in words for the client."""

    reason: str
    is_taken_over: bool = False  # the world goes on with another socket

    @property
    def error(self) -> TransportError:
        return TakenOver(self.reason) if self.is_taken_over else WorldLost(self.reason)


TAKEN_OVER = LeaseEnd("another socket goes on with this session", is_taken_over=True)


@dataclass(frozen=True, slots=True)
class PendingReply:
    """A reply that comes later. Awaited once, or dropped."""

    receive: Callable[[], Coroutine[Any, Any, Chunk]]

    def __await__(self) -> Generator[Any, Any, Chunk]:
        return self.receive().__await__()


class HeldLease:
    """One session of a replica group, for as long as this process holds it.

    Calls go to rank 0 directly, so that they work while the group's replica drains. They raise
    WorldLost when the group is lost, and WorldFailed when the engine raises.
    """

    def __init__(
        self,
        lease: Lease,
        stream: Any,
        *,
        config: ServiceConfig,
    ) -> None:
        """`stream` is the rest of the lease call, a DeploymentResponseGenerator."""
        self.session_id = lease.session_id
        self.group_id = lease.group_id
        self.attached = lease.attached
        self.epoch = lease.epoch
        self.age_s = lease.age_s  # when the lease began
        self._lease = lease
        self._rank = lease.rank
        self._stream = stream
        self._step_timeout_s = config.step_timeout_s
        # The session as this replica sees it, for its rank
        self.report: Callable[[], SessionReport | None] = lambda: None
        self._warnings: list[WarningMessage] = []
        self._closed_by_us: str | None = None  # the reason
        self._ended = asyncio.create_task(self._wait_for_end())
        period_s = min(REPORT_PERIOD_S, config.lease_ttl_s / 3)
        self._touching = asyncio.create_task(self._touch_every(period_s))

    @property
    def token(self) -> ResumeToken:
        """By which another process may attach to the session, if it is resumable."""
        return ResumeToken(self.group_id, self.session_id, self._lease.secret)

    async def open(
        self, spec: WorldSpec, image: Frames, context: Context | None, *, on_wait: OnWait
    ) -> Opened:
        """Raises Refused, WorldLost or WorldFailed. `on_wait` receives the place in the queue.

        `context` is the encoded prompt, or None if the rank encodes it.
        """
        return await self._opened(self._call(self._rank.open, spec, image, context), on_wait)

    async def restore(
        self, snapshot: Snapshot, contexts: Contexts | None, *, on_wait: OnWait
    ) -> Opened:
        """As `open`, from a snapshot. It replaces a world that is open.

        `contexts` are those of the snapshot's prompts, or None if the rank encodes them.
        """
        return await self._opened(self._call(self._rank.restore, snapshot, contexts), on_wait)

    async def step(
        self,
        actions: Sequence[str],
        *,
        prompt: str | None,
        time_to_underrun_s: float,
        context: Context | None,
        on_wait: OnWait,
    ) -> Awaitable[Chunk]:
        """Returns when the next chunk has been denoised; see `WorldSession.step`.

        `on_wait` gets the place of a suspended session that waits for its memory.
        """
        replies = self._call(self._rank.step, list(actions), prompt, time_to_underrun_s, context)
        while isinstance(reply := await self._next(replies), Queued):
            await on_wait(reply)
        return PendingReply(partial(self._next, replies))

    async def read_world(self) -> HandedOver | None:
        """The world of the session as the rank has it."""
        call = call_detached(self._rank.hand_over, self.session_id, self._lease.secret, False)
        return await hand_over(call, timeout_s=self._step_timeout_s)

    def take_warnings(self) -> list[WarningMessage]:
        """The warnings since the last call, such as that of a truncated prompt."""
        warnings, self._warnings = self._warnings, []
        return warnings

    def pause(self) -> None:
        """Free the session's share of the group's speed until its next step."""
        self._rank.pause.remote(self.session_id, self.epoch)

    def unpause(self) -> None:
        """Take a pause back while a step waits for the session's memory."""
        self._rank.unpause.remote(self.session_id, self.epoch)

    async def ended(self) -> LeaseEnd:
        """Returns when the lease has ended."""
        return await asyncio.shield(self._ended)

    async def give_up(self) -> bool:
        """End the session, because its world goes on elsewhere. False if another socket has it.

        The rank knows that before the end of this lease arrives here, by another process. A rank
        that has died does not answer, but the end may still come.
        """
        self._touching.cancel()
        answer = answer_of(call_detached(self._rank.end, self.session_id, self.epoch, True))
        await asyncio.wait([answer], timeout=LAST_WORD_S)
        is_answered = answer.done() and answer.exception() is None
        if not is_answered:
            await asyncio.wait([self._ended], timeout=LAST_WORD_S)
        is_told = self._ended.done() and self._ended.result().is_taken_over
        self._closed_by_us = self._closed_by_us or "moved"
        cancel(self._stream)
        return not (is_told or (is_answered and answer.result()))

    def close(self, reason: str = "closed") -> None:
        """End the session. Not async, so that nothing interrupts it. It may be called twice."""
        self._closed_by_us = self._closed_by_us or reason
        self._touching.cancel()
        self._rank.end.remote(self.session_id, self.epoch)
        cancel(self._stream)

    def detach(self) -> None:
        """Leave a resumable session to another lease. Any other one ends."""
        self._closed_by_us = self._closed_by_us or "detached"
        self._touching.cancel()
        cancel(self._stream)

    async def _opened(self, replies: Any, on_wait: OnWait) -> Opened:
        while isinstance(reply := await self._next(replies), Queued):
            await on_wait(reply)
        if isinstance(reply, Refusal):
            raise Refused(reply.text, field=reply.field)
        assert isinstance(reply, Opened)
        return reply

    def _call(self, method: Any, *args: Any) -> Any:
        """Call a method of the rank, which streams its replies."""
        return call_detached(method, self.session_id, self.epoch, *args)

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
            raise WorldLost(self._closed_by_us or "the world has ended") from exc
        except RayTaskError as exc:
            logger.exception("session %s: the world raised", self.session_id)
            raise WorldFailed("the world failed") from exc
        except RayError as exc:
            logger.warning("session %s: %s", self.session_id, exc)
            raise WorldLost("the world's process died") from exc

    async def _wait_for_end(self) -> LeaseEnd:
        try:
            async for reply in self._stream:
                if isinstance(reply, Ended):
                    return end_of(reply)
        except RequestCancelledError:
            return LeaseEnd(self._closed_by_us or "the world's lease was cancelled")
        except (RayError, RayServeException) as exc:
            logger.warning("session %s: %s", self.session_id, exc)
            return LeaseEnd("the world's process died")
        return LeaseEnd("the world has ended")

    async def _touch_every(self, period_s: float) -> None:
        """Keep the session while its socket is open. Its client may pause or owe acks."""
        while True:
            await asyncio.sleep(period_s)
            self._rank.touch.remote(self.session_id, self.epoch, self.report())


def end_of(reply: Ended) -> LeaseEnd:
    """The end of a lease that the group has ended."""
    if reply.reason in ("taken_over", "moved"):
        return TAKEN_OVER
    return LeaseEnd(f"the world has ended: {reply.reason}")


async def hand_over(
    call: Awaitable[HandedOver | None], *, timeout_s: float | None
) -> HandedOver | None:
    """The answer of a rank's `hand_over`. None if the session is gone, or its rank is."""
    answer = answer_of(call)
    if not (await asyncio.wait([answer], timeout=timeout_s))[0]:
        return None
    try:
        return answer.result()
    except RayError as exc:
        logger.info("a session could not be handed over: %s", exc)
        return None
