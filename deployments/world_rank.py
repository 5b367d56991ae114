"""One rank of a replica group: the process that holds the weights and its share of the worlds."""

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from deployments.config import ServiceConfig
from deployments.observability.logs import configure_logging
from deployments.observability.metrics import CacheMetrics
from transport.wire.world import WorldSpec

if TYPE_CHECKING:  # imported late: the group names this class, and stays without torch
    from lingbot.parallel.ulysses import SequenceParallelGroup
    from lingbot.runtime.commands import Command
    from lingbot.runtime.engine import Engine
    from lingbot.runtime.worker import Worker

Frames = NDArray[np.uint8]

EXIT_GRACE_S = 1.0  # for the reason to reach the group before this process ends
REPORT_S = 5.0  # how often the metrics are brought up to date

logger = logging.getLogger(__name__)


class Refusal(Struct, frozen=True):
    """A world that cannot be opened as asked, in words for the client."""

    text: str
    field: str | None


class RankAssignment(Struct, frozen=True):
    """Which rank of a group this is, and where it meets the others."""

    rank: int = 0
    num_ranks: int = 1
    host: str = ""
    port: int = 0


class SessionEnded(Exception):
    """A call for a session that is not there, or not there any more."""


@dataclass(slots=True)
class SessionRecord:
    """A lease as rank 0 sees it, from its reservation to its end."""

    touched: float
    opened: bool = False
    # What each step leaves for the call that fetches its pictures, in the order of the steps.
    pictures: "asyncio.Queue[asyncio.Future[Frames]]" = field(default_factory=asyncio.Queue)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class WorldRank:
    """An asyncio actor: calls come in together, the engine runs them one at a time on its thread.

    Leases and sessions are rank 0's business; the other ranks do what it does. A plain class, so
    that a test can run it without a cluster; the group makes it an actor.
    """

    def __init__(
        self,
        config: ServiceConfig,
        *,
        load: "Callable[[SequenceParallelGroup], Engine] | None" = None,
    ) -> None:
        self._config = config
        self._load = load or partial(load_engine, config)
        self._tenancies: dict[str, SessionRecord] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._store: Any = None  # kept by rank 0: where the ranks meet
        self._end: asyncio.Future[None]
        self._lockstep: Worker

    def listen(self, host: str) -> int:
        """Open the place where the ranks meet; its port."""
        from lingbot.parallel.process_group import create_rendezvous

        self._store = create_rendezvous(host)
        port: int = self._store.port
        return port

    async def start(self, place: RankAssignment) -> None:
        """Meet the other ranks and load the weights."""
        configure_logging()
        self._end = asyncio.get_running_loop().create_future()
        began = time.monotonic()
        self._lockstep = await asyncio.to_thread(self._prepare, place)
        took = time.monotonic() - began
        logger.info("rank %d of %d loaded in %.1f s", place.rank, place.num_ranks, took)
        self._keep(REPORT_S, partial(self._report, CacheMetrics(rank=place.rank)))

    async def play(self) -> None:
        """Begin to work, once all ranks have started; rank 0 returns when every shape is warm.

        What goes wrong from now on is told by ``last``.
        """
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._work, args=[loop], name="engine", daemon=True).start()
        if not self._lockstep.leads:
            return
        began = time.monotonic()
        await asyncio.to_thread(self._lockstep.warm_up)
        logger.info("warm in %.1f s", time.monotonic() - began)
        self._keep(self._config.lease_ttl_s / 4, lambda: self.reap(time.monotonic()))

    def reserve(self, session_id: str) -> None:
        """Make room for a session. Its world is opened next, or it is freed in a while."""
        self._tenancies[session_id] = SessionRecord(touched=time.monotonic())

    async def wait_for_end(self, session_id: str) -> None:
        """Returns when the session has ended."""
        if tenancy := self._tenancies.get(session_id):
            await tenancy.ended.wait()

    async def open(
        self, session_id: str, spec: WorldSpec, image: NDArray[np.uint8]
    ) -> Refusal | None:
        """Make the reserved session's world. Raises SessionEnded if it has ended meanwhile."""
        from lingbot.errors import LingbotError
        from lingbot.runtime.commands import Close, Open
        from lingbot.runtime.session import SessionSpec

        wanted = SessionSpec(
            first_frame=image,
            prompt=spec.prompt,
            seed=spec.seed,
            num_steps=spec.num_steps,
            window=spec.window,
            sink=spec.sink,
        )
        try:
            await self._do(Open(session_id, wanted))
        except LingbotError as exc:
            return Refusal(str(exc), exc.field)
        if session_id not in self._tenancies:  # ended while it was made
            await self._do(Close(session_id))
            raise SessionEnded(session_id)
        self._tenancies[session_id].opened = True
        self.touch(session_id)
        logger.info("session %s opened, %d in all", session_id, len(self._tenancies))
        return None

    async def step(
        self, session_id: str, actions: Sequence[str], prompt: str | None, time_to_underrun_s: float
    ) -> None:
        """Make the session's next chunk, but for its pictures; see ``WorldSession.step``.

        Raises SessionEnded if it has.
        """
        from lingbot.errors import SessionClosed
        from lingbot.runtime.commands import Step

        tenancy = self._tenant(session_id)
        assert tenancy.opened, "stepped before it was opened"
        self.touch(session_id)
        pictures: asyncio.Future[Frames]
        try:
            decoding = await self._do(
                Step(session_id, list(actions), prompt), time_to_underrun_s=time_to_underrun_s
            )
            pictures = asyncio.wrap_future(decoding)
            ignore_unretrieved(pictures)
        except Exception as exc:
            ended = isinstance(exc, SessionClosed)
            tenancy.pictures.put_nowait(failed(SessionEnded(session_id) if ended else exc))
            if ended:
                raise SessionEnded(session_id) from exc
            raise
        tenancy.pictures.put_nowait(pictures)

    async def fetch(self, session_id: str) -> Frames:
        """The pictures of the next step that was not fetched: uint8 [T, H, W, 3].

        May be called before the step, by one caller. Raises what the step raises, or SessionEnded.
        """
        return await (await self._tenant(session_id).pictures.get())

    def touch(self, session_id: str) -> None:
        """Somebody still wants this session, if it is there."""
        if tenancy := self._tenancies.get(session_id):
            tenancy.touched = time.monotonic()

    def end(self, session_id: str, why: str) -> None:
        """Free a session. One that is not there, or not there any more, is fine."""
        from lingbot.runtime.commands import Close

        tenancy = self._tenancies.pop(session_id, None)
        if tenancy is None:
            return
        tenancy.ended.set()
        tenancy.pictures.put_nowait(failed(SessionEnded(session_id)))
        if tenancy.opened:
            self._lockstep.submit(Close(session_id), deadline=-math.inf)
            logger.info("session %s closed: %s", session_id, why)

    def busy_s(self) -> float:
        """How long the engine has been at its running call; 0 while it rests."""
        return self._lockstep.busy_s()

    async def last(self) -> None:
        """Never returns: its caller learns at once that this process died, or why it will."""
        await asyncio.shield(self._end)

    def reap(self, now: float) -> None:
        """Free the sessions that nobody asked about for too long; ``now`` of time.monotonic."""
        ttl = self._config.lease_ttl_s
        for session_id, tenancy in list(self._tenancies.items()):
            if now - tenancy.touched > ttl:
                self.end(session_id, f"nobody asked about it for {ttl:g} s")

    def _prepare(self, place: RankAssignment) -> "Worker":
        import torch

        from lingbot.parallel.process_group import connect_rendezvous, join
        from lingbot.parallel.ulysses import SINGLE
        from lingbot.runtime.worker import Worker

        group = SINGLE
        if place.num_ranks > 1:
            group = join(
                self._store or connect_rendezvous(place.host, place.port),
                rank=place.rank,
                num_ranks=place.num_ranks,
                device=torch.device(self._config.device),
            )
        return Worker(self._load(group))

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._lockstep.run()
        except BaseException as exc:
            # Out of step with the other ranks: the group is of no use without this one.
            logger.exception("this rank ends")
            reason = RuntimeError(f"{type(exc).__name__}: {exc}")
            loop.call_soon_threadsafe(self._end.set_exception, reason)
            time.sleep(EXIT_GRACE_S)
            os._exit(1)

    def _tenant(self, session_id: str) -> SessionRecord:
        tenancy = self._tenancies.get(session_id)
        if tenancy is None:
            raise SessionEnded(session_id)
        return tenancy

    async def _do(self, command: "Command", *, time_to_underrun_s: float = 0.0) -> Any:
        """Have all ranks do this when it is the most urgent."""
        return await asyncio.wrap_future(
            self._lockstep.submit(command, deadline=time.monotonic() + time_to_underrun_s)
        )

    def _report(self, metrics: CacheMetrics) -> None:
        metrics.report(self._lockstep.engine.camera_cache.stats)

    def _keep(self, every_s: float, do: Callable[[], None]) -> None:
        async def keep() -> None:
            while True:
                await asyncio.sleep(every_s)
                do()

        self._tasks.append(asyncio.create_task(keep()))


def failed(error: Exception) -> "asyncio.Future[Frames]":
    """A future that raises, if somebody asks it."""
    future: asyncio.Future[Frames] = asyncio.get_running_loop().create_future()
    ignore_unretrieved(future)
    future.set_exception(error)
    return future


def ignore_unretrieved(future: "asyncio.Future[Any]") -> None:
    """It is no error if nobody asks this future how it ended."""
    future.add_done_callback(lambda done: done.cancelled() or done.exception())


def load_engine(config: ServiceConfig, group: "SequenceParallelGroup") -> "Engine":
    from pathlib import Path

    import torch

    from lingbot.runtime.presets import load_engine as load

    torch.set_num_threads(config.threads)
    return load(
        config.preset,
        weights=None if config.weights is None else Path(config.weights),
        device=config.device,
        dtype=None if config.dtype == "auto" else getattr(torch, config.dtype),
        camera_cache_bytes=config.camera_cache_bytes,
        group=group,
    )
