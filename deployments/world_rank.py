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


class SessionEnded(Exception):
    """A call for a session that is not there, or not there any more."""


@dataclass(slots=True)
class Tenancy:
    """A lease as the rank sees it, from its reservation to its end."""

    touched: float
    session: "Session | None" = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


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
        self._busy_since: float | None = None  # when the engine's running call began
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
        self._reaper = asyncio.create_task(self._keep_reaping())

    def reserve(self, session_id: str) -> None:
        """Make room for a session. Its world is opened next, or it is freed in a while."""
        self._tenancies[session_id] = Tenancy(touched=time.monotonic())

    async def wait_for_end(self, session_id: str) -> None:
        """Returns when the session has ended."""
        if tenancy := self._tenancies.get(session_id):
            await tenancy.ended.wait()

    async def open(self, session_id: str, spec: WorldSpec) -> Refusal | None:
        """Make the reserved session's world. Raises SessionEnded if it has ended meanwhile."""
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
            raise SessionEnded(session_id)
        self._tenancies[session_id].session = session
        self.touch(session_id)
        logger.info("session %s opened, %d in all", session_id, len(self._tenancies))
        return None

    async def step(
        self, session_id: str, actions: Sequence[str], prompt: str | None
    ) -> NDArray[np.uint8]:
        """The session's next chunk, uint8 [T, H, W, 3]. Raises SessionEnded if it has."""
        tenancy = self._tenancies.get(session_id)
        if tenancy is None:
            raise SessionEnded(session_id)
        session = tenancy.session
        assert session is not None, "stepped before it was opened"
        self.touch(session_id)
        return await self._run(partial(self._engine.step, session, actions, prompt=prompt))

    def touch(self, session_id: str) -> None:
        """Somebody still wants this session, if it is there."""
        if tenancy := self._tenancies.get(session_id):
            tenancy.touched = time.monotonic()

    def end(self, session_id: str, why: str) -> None:
        """Free a session. One that is not there, or not there any more, is fine."""
        tenancy = self._tenancies.pop(session_id, None)
        if tenancy is None:
            return
        tenancy.ended.set()
        if tenancy.session is not None:
            self._thread.submit(self._engine.close, tenancy.session)  # after its running step
            logger.info("session %s closed: %s", session_id, why)

    def busy_s(self) -> float:
        """How long the engine has been at its running call; 0 while it rests."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    async def last(self) -> None:
        """Never returns: its caller learns at once when this process dies."""
        await asyncio.Event().wait()

    def reap(self, now: float) -> None:
        """Free the sessions that nobody asked about for too long; ``now`` of time.monotonic."""
        ttl = self._config.lease_ttl_s
        for session_id, tenancy in list(self._tenancies.items()):
            if now - tenancy.touched > ttl:
                self.end(session_id, f"nobody asked about it for {ttl:g} s")

    async def _keep_reaping(self) -> None:
        while True:
            await asyncio.sleep(self._config.lease_ttl_s / 4)
            self.reap(time.monotonic())

    async def _run(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._timed, call, *args
        )

    def _timed(self, call: Callable[..., T], *args: Any) -> T:
        self._busy_since = time.monotonic()
        try:
            return call(*args)
        finally:
            self._busy_since = None


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
