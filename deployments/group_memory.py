"""The memory plan of a replica group, on its way to `GET /v1/world`."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.sessions.admission import Demand
from lingbot.config import Size
from lingbot.errors import LingbotError
from transport.wire.errors import TransportError
from transport.wire.world import SessionMemory, WorldMemory

if TYPE_CHECKING:
    from lingbot.memory_plan import MemoryPlan

ANSWER_TIMEOUT_S = 0.5


class GroupMemory:
    """Asks a group once it is up, and keeps its answer: another plan comes with other replicas."""

    def __init__(
        self,
        group: DeploymentHandle[Any],
        *,
        ready: Callable[[], Awaitable[bool]],
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        """`ready` returns whether a group is up: a call would start one that is scaled to zero."""
        self._group = group
        self._ready = ready
        self._answer_timeout_s = answer_timeout_s
        self._memory: WorldMemory | None = None
        self._asking: asyncio.Task[None] | None = None

    async def ask(self) -> WorldMemory | None:
        """The plan, or None while no group has answered.

        Nobody waits for longer than `answer_timeout_s`.
        """
        if self._memory is None:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._fetch())
            await asyncio.wait([self._asking], timeout=self._answer_timeout_s)
        return self._memory

    async def _fetch(self) -> None:
        with suppress(RayError, RayServeException, TransportError):
            if await self._ready():
                self._memory = await self._group.memory.remote()


class SessionBytes:
    """The bytes of a rank that sessions take, by the plan. Without a plan they take none."""

    def __init__(self, plan: "MemoryPlan | None") -> None:
        self._plan = plan
        # Bytes for all sessions together; None: unknown
        self.all_together = None if plan is None else plan.for_sessions

    def of(self, demand: Demand) -> int:
        """Bytes of a session. One that the engine will refuse counts as the largest."""
        if self._plan is None:
            return 0
        try:
            size = Size(demand.width, demand.height)
            return self._plan.session_bytes(size, window=demand.window)
        except (LingbotError, ValueError):
            return self._plan.largest.total


def describe_memory(plan: "MemoryPlan") -> WorldMemory:
    """A plan as the transport room knows it."""
    return WorldMemory(
        weight_bytes=plan.weights,
        vae_bytes=plan.vae,
        camera_cache_bytes=plan.camera_cache,
        activation_bytes=plan.activations,
        reserved_bytes=plan.reserved,
        free_bytes=plan.free,
        sessions=tuple(
            SessionMemory(
                width=session.size.width,
                height=session.size.height,
                kv_bytes=session.kv,
                prompt_bytes=session.text,
                vae_bytes=session.vae,
                image_bytes=session.condition,
                num_fitting=plan.num_fitting(session),
            )
            for session in plan.sessions
        ),
    )
