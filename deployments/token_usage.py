"""The counter of each token's sessions, clips and opens, for all transport replicas."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from msgspec import Struct
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.calls import answer_of, call_detached, cancel
from deployments.observability.logs import configure_logging
from transport.access_config import TokenLimits
from transport.token_usage import Kind, UsageCounts
from transport.tokens import Token
from transport.wire.errors import RETRY_AFTER_S, Busy

ANSWER_TIMEOUT_S = 8.0  # for a count; clients give a handshake 10 s
RETRY_S = 1.0  # between two calls while the replica is replaced

logger = logging.getLogger(__name__)


class Refusal(Struct, frozen=True):
    """A limit that is reached."""

    text: str
    retry_after_s: int | None


class TokenUsage:
    """Ray Serve creates one replica, which is there only if there are tokens."""

    def __init__(self) -> None:
        configure_logging()
        self._counts = UsageCounts()

    async def hold(
        self, name: str, kind: Kind, limits: TokenLimits, resumed: bool
    ) -> AsyncIterator[Refusal | None]:
        """One streaming call for as long as a session or clip is counted.

        Its only item is None, or the refusal that ends the call. `resumed`: it was counted by a
        replica that is gone, and is counted here beyond any limit.
        """
        if resumed:
            self._counts.resume(name, kind)
        else:
            try:
                self._counts.begin(name, kind, limits, now=time.monotonic())
            except Busy as exc:
                yield Refusal(str(exc), exc.retry_after_s)
                return
        try:
            yield None
            await asyncio.Event().wait()  # until the caller cancels, or is gone
        finally:
            self._counts.end(name, kind)


class ClusterUsage:
    """Counts through the deployment, and repeats what is held to a new replica of it."""

    def __init__(
        self, handle: DeploymentHandle[Any], *, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        # Through gRPC, a caller that was killed is noticed within milliseconds.
        self._handle = handle.options(stream=True, _by_reference=False)
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def hold(self, token: Token, kind: Kind) -> AsyncIterator[None]:
        """Raises Busy at a limit, and while the deployment does not answer."""
        hold = Hold(self._handle, token, kind)
        try:
            refusal = await hold.begin(self._timeout_s)
            if refusal is not None:
                raise Busy(refusal.text, retry_after_s=refusal.retry_after_s)
            hold.keep()
            yield
        finally:
            hold.end()


class Hold:
    """One session or clip that is counted."""

    def __init__(self, handle: Any, token: Token, kind: Kind) -> None:
        self._handle = handle
        self._token = token
        self._kind = kind
        self._stream: Any = None
        self._keeping: asyncio.Task[None] | None = None
        self._ended = False

    async def begin(self, timeout_s: float) -> Refusal | None:
        """The refusal, or None once it is counted. Raises Busy without an answer."""
        reason = f"no answer in {timeout_s:g} s"
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        self._call(resumed=False)
                        return await self._first_item()
                    except (RayError, RayServeException, StopAsyncIteration) as exc:
                        reason = type(exc).__name__  # Serve starts another replica
                    await asyncio.sleep(RETRY_S)
        logger.warning("%s: its usage could not be counted: %s", self._token.name, reason)
        raise Busy("what this token uses is not known yet", retry_after_s=RETRY_AFTER_S)

    def keep(self) -> None:
        """Stay counted until `end`, also by a replica that replaces the one that counted."""
        self._keeping = asyncio.create_task(self._stay_counted())

    def end(self) -> None:
        """Not async, so that nothing interrupts it."""
        self._ended = True
        if self._keeping is not None:
            self._keeping.cancel()
        if self._stream is not None:  # None: no call could be made
            cancel(self._stream)

    def _call(self, *, resumed: bool) -> None:
        self._stream = call_detached(
            self._handle.hold, self._token.name, self._kind, self._token.limits, resumed
        )

    async def _first_item(self) -> Refusal | None:
        first: Refusal | None = await asyncio.shield(answer_of(anext(self._stream)))
        return first  # `end` cancels the stream of one that is not awaited any more

    async def _stay_counted(self) -> None:
        is_counted = True
        while True:
            with suppress(RayError, RayServeException):
                if not is_counted:
                    self._call(resumed=True)
                async for _ in self._stream:
                    pass
            if self._ended:  # Ray turns the cancellation of this task into an error of its own
                return
            is_counted = False
            await asyncio.sleep(RETRY_S)
