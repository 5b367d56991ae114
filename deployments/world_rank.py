"""One rank of a replica group: the process that holds the weights and the worlds."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from deployments.config import ServiceConfig
from deployments.logs import show_logs
from transport.world import WorldSpec

if TYPE_CHECKING:
    from lingbot.engine import Engine
    from lingbot.session import Session

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Refusal(Struct, frozen=True):
    """A world that cannot be opened as asked, in words for the client."""

    text: str
    field: str | None


@dataclass(slots=True)
class Tenancy:
    """A lease as the rank sees it, from its reservation to its end."""

    touched: float
    session: "Session | None" = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    why: str = ""


class WorldRank:
    """An asyncio actor: calls come in together, the engine runs them one at a time on its thread.

    A plain class, so that a test can run it without a cluster; the group makes it an actor.
    """

    def __init__(
        self, config: ServiceConfig, *, load: "Callable[[], Engine] | None" = None
    ) -> None:
        self._config = config
        self._load = load or partial(load_engine, config)
        self._tenancies: dict[str, Tenancy] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._engine: Engine
        self._reaper: asyncio.Task[None]

    async def start(self) -> None:
        """Load the weights and run every shape once. No lease is given before this is over."""
        show_logs()
        began = time.monotonic()
        self._engine = await self._run(self._load)
        loaded = time.monotonic()
        await self._run(self._engine.warm_up)
        logger.info("loaded in %.1f s, warm in %.1f s", loaded - began, time.monotonic() - loaded)
        self._reaper = asyncio.create_task(self._reap())

    async def hold(self, session_id: str) -> str:
        """Reserve a session, and return the reason when it ends."""
        tenancy = self._tenancies[session_id] = Tenancy(touched=time.monotonic())
        await tenancy.ended.wait()
        return tenancy.why

    async def open(self, session_id: str, spec: WorldSpec) -> Refusal | None:
        """Make the reserved session's world. Raises KeyError if it has ended meanwhile."""
        from lingbot.errors import LingbotError
        from lingbot.session import SessionSpec

        wanted = SessionSpec(
            first_frame=spec.first_frame,
            prompt=spec.prompt,
            seed=spec.seed,
            num_steps=spec.num_steps,
            window=spec.window,
            sink=spec.sink,
        )
        try:
            session = await self._run(self._engine.open, wanted)
        except LingbotError as exc:
            return Refusal(str(exc), exc.field)
        if session_id not in self._tenancies:  # ended while it was made
            await self._run(self._engine.close, session)
            raise KeyError(session_id)
        self._tenancies[session_id].session = session
        self.touch(session_id)
        logger.info("session %s opened, %d in all", session_id, len(self._tenancies))
        return None

    async def step(
        self, session_id: str, actions: Sequence[str], prompt: str | None
    ) -> NDArray[np.uint8]:
        """The session's next chunk, uint8 [T, H, W, 3]. Raises KeyError if it has ended."""
        session = self._tenancies[session_id].session
        assert session is not None
        self.touch(session_id)
        return await self._run(partial(self._engine.step, session, actions, prompt=prompt))

    def touch(self, session_id: str) -> None:
        """Somebody still wants this session."""
        self._tenancies[session_id].touched = time.monotonic()

    def end(self, session_id: str, why: str) -> None:
        """Free a session. One that is not there, or not there any more, is fine."""
        tenancy = self._tenancies.pop(session_id, None)
        if tenancy is None:
            return
        tenancy.why = why
        tenancy.ended.set()
        if tenancy.session is not None:
            self._thread.submit(self._engine.close, tenancy.session)  # after its running step
            logger.info("session %s closed: %s", session_id, why)

    def num_sessions(self) -> int:
        return len(self._tenancies)

    async def last(self) -> None:
        """Never returns: its caller learns at once when this process dies."""
        await asyncio.Event().wait()

    async def _reap(self) -> None:
        ttl = self._config.lease_ttl_s
        while True:
            await asyncio.sleep(ttl / 4)
            now = time.monotonic()
            for session_id, tenancy in list(self._tenancies.items()):
                if now - tenancy.touched > ttl:
                    self.end(session_id, f"nobody asked about it for {ttl:g} s")

    async def _run(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)


def load_engine(config: ServiceConfig) -> "Engine":
    # Imported here: the group names this class and must stay without torch.
    from pathlib import Path

    import torch

    from lingbot.load import load_engine as load

    torch.set_num_threads(config.threads)
    return load(
        config.preset,
        weights=None if config.weights is None else Path(config.weights),
        device=config.device,
        dtype=getattr(torch, config.dtype),
    )
