"""One rank of a replica group: the process with the weights and its shard of each session."""

import asyncio
import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from deployments.build_engine import build_engine
from deployments.config import ServiceConfig
from deployments.group_memory import SessionBytes, describe_memory
from deployments.group_sessions import GroupSessions
from deployments.observability.logs import configure_logging
from deployments.observability.rank_metrics import CacheMetrics, GroupMetrics
from deployments.observability.session_reports import SessionReport
from deployments.rank_replies import Chunk, HandedOver, Opened
from deployments.refusal import Refusal
from deployments.session_calls import SessionCalls
from deployments.session_status import SessionStatus
from deployments.session_work import SessionWork
from deployments.sessions.admission import Admission, Demand, GroupLimits
from deployments.sessions.lease_reply import AskAgain, Ended, Full, Leased, NotHere, Waiting
from deployments.sessions.registry import EndReason
from transport.wire.messages import Queued, WarningMessage
from transport.wire.world import WorldMemory, WorldSpec

if TYPE_CHECKING:  # imported late: WorldGroup imports this class and stays without torch
    from lingbot.config import Size
    from lingbot.parallel.ulysses import SequenceParallelGroup
    from lingbot.runtime.engine import Engine
    from lingbot.runtime.snapshot import Snapshot
    from lingbot.runtime.worker import Worker
    from lingbot.text.pocket import HashedWordEncoder

EMPTY_PERIOD_S = 0.2  # between two looks for sessions of a group that ends
SUSPEND_PERIOD_S = 1.0  # between two looks for sessions that have been paused for too long

logger = logging.getLogger(__name__)


class RankAssignment(Struct, frozen=True, kw_only=True):
    """A rank's number in its group, the group's name, and the address of the rendezvous."""

    rank: int = 0
    num_ranks: int = 1
    host: str = ""
    port: int = 0
    group_id: str = ""  # the group's name for its clients


class WorldRank:
    """An asyncio actor. Calls arrive concurrently; the engine runs one at a time on its thread.

    Only rank 0 has sessions; the other ranks execute its commands. This is a plain
    class, so that tests run it without a cluster. WorldGroup turns it into an actor.
    """

    def __init__(
        self,
        config: ServiceConfig,
        *,
        num_cpus: float | None = None,
        load: "Callable[[SequenceParallelGroup], Engine] | None" = None,
        report_period_s: float = 5.0,
        notice_period_s: float = 0.5,
        exit_grace_s: float = 1.0,
        exit_process: Callable[[int], object] = os._exit,
    ) -> None:
        """`num_cpus` is what the group's ranks have together; None: all of this machine.

        `report_period_s` is the time between two updates of the metrics.

        A client whose open is queued gets its position every `notice_period_s`.
        `exit_grace_s` separates a failure and the end of the process, so that the reason arrives.
        """
        self._config = config
        self._load = load or partial(build_engine, config, num_cpus=num_cpus)
        self._report_period_s = report_period_s
        self._notice_period_s = notice_period_s
        self._exit_grace_s = exit_grace_s
        self._exit_process = exit_process
        self._sessions: GroupSessions
        self._calls: SessionCalls
        # The transports' last ones, and the numbers of their leases
        self._reports: dict[str, tuple[int, SessionReport]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._store: Any = None  # the rendezvous, on rank 0 of several
        self._failure: asyncio.Future[None]
        self._worker: Worker
        # On rank 0, unless a deployment encodes.
        self._text_encoder: HashedWordEncoder | None = None

    def open_rendezvous(self, host: str) -> int:
        """Open the store at which the ranks meet. Returns its port."""
        from lingbot.parallel.process_group import create_rendezvous

        self._store = create_rendezvous(host)
        port: int = self._store.port
        return port

    async def start(self, assignment: RankAssignment) -> None:
        """Join the other ranks and load the weights."""
        configure_logging(self._config.log_format)
        self._failure = asyncio.get_running_loop().create_future()
        began = time.monotonic()
        self._worker = await asyncio.to_thread(self._create_worker, assignment)
        took_s = time.monotonic() - began
        rank, num_ranks = assignment.rank, assignment.num_ranks
        logger.info("rank %d of %d loaded in %.1f s", rank, num_ranks, took_s)
        work = SessionWork()
        self._sessions = self._create_sessions(assignment.group_id, work)
        self._calls = SessionCalls(
            self._worker,
            self._sessions,
            work,
            text_encoder=self._text_encoder,
            prompt_recache=self._config.prompt_recache,
            notice_period_s=self._notice_period_s,
        )
        self._run_every(self._report_period_s, partial(self._report, CacheMetrics(rank=rank)))

    async def start_loop(self) -> None:
        """Execute commands from now on. All ranks must have started.

        Rank 0 returns when every shape is warm. `wait_failed` raises later failures.
        """
        loop = asyncio.get_running_loop()

        def measure(size: "Size", denoising_s: float, decoding_s: float) -> None:  # on a thread
            note = partial(self._sessions.measure, (size.width, size.height))
            loop.call_soon_threadsafe(note, denoising_s, decoding_s)

        self._worker.on_chunk = measure
        threading.Thread(target=self._run_worker, args=[loop], name="engine", daemon=True).start()
        if not self._worker.is_leader:
            return
        from lingbot.runtime.warm_up import warm_up

        began = time.monotonic()
        await asyncio.to_thread(warm_up, self._worker)
        logger.info("warm in %.1f s", time.monotonic() - began)
        for size, share in self._sessions.admission.shares().items():
            logger.info("a chunk of %dx%d takes %.0f %% of its duration", *size, 100 * share)
        shortest_s = min(self._config.lease_ttl_s, self._config.resume_grace_s or math.inf)
        self._run_every(shortest_s / 4, lambda: self._sessions.expire_idle(time.monotonic()))
        self._run_every(SUSPEND_PERIOD_S, self._sessions.suspender.suspend_paused)
        self._run_every(self._report_period_s, partial(self._report_group, GroupMetrics()))

    async def lease(
        self, call_id: str, demand: Demand
    ) -> AsyncIterator[Waiting | AskAgain | Full | NotHere | Leased | Ended]:
        """Wait for a place in the group, and hold it; see `GroupSessions.lease`.

        A session that was admitted expires unless its world is opened next.
        """
        async for reply in self._sessions.lease(call_id, demand):
            yield reply

    def leave(self, call_id: str) -> None:
        """End a lease call, whose caller has gone; see `GroupSessions.leave`."""
        self._sessions.leave(call_id)

    def set_limits(self, limits: GroupLimits) -> None:
        """Replace what the group admits. Sessions beyond it go on."""
        self._sessions.set_limits(limits)

    def sessions(self) -> list[SessionStatus]:
        """The group's sessions, for operators; none while its weights are loaded."""
        return self._sessions.sessions() if hasattr(self, "_sessions") else []

    async def wait_empty(self) -> None:
        """Returns when the group has no session."""
        while self.sessions():
            await asyncio.sleep(EMPTY_PERIOD_S)

    def ends(self) -> dict[EndReason, int]:
        """How many sessions have ended, by reason."""
        return dict(self._sessions.registry.ends)

    async def open(
        self,
        session_id: str,
        epoch: int,
        spec: WorldSpec,
        image: NDArray[np.uint8],
        context: NDArray[np.float32] | None = None,
    ) -> AsyncIterator[Queued | WarningMessage | Refusal | Opened]:
        """Open the session's world, in place of the one that it has, if it has one.

        `epoch` is the number of the caller's lease, here and in the calls below. A call does
        nothing, and yields nothing more, once another lease holds the session or none does. Without
        a `context` this rank encodes the prompt. Yields a warning if the prompt is too long, the
        client's position while the open is queued, then the world or the refusal.
        """
        async for reply in self._calls.open(session_id, epoch, spec, image, context):
            yield reply

    async def restore(
        self,
        session_id: str,
        epoch: int,
        snapshot: "Snapshot",
        contexts: dict[str, NDArray[np.float32]] | None = None,
        exact: bool = False,
    ) -> AsyncIterator[Queued | Refusal | Opened]:
        """Restore a world from a snapshot, as `open` opens one.

        `contexts` are its prompts' by their text; None: this rank encodes them. `exact` generates
        all its chunks again; see `Engine.restore`.
        """
        async for reply in self._calls.restore(session_id, epoch, snapshot, contexts, exact):
            yield reply

    async def step(
        self,
        session_id: str,
        epoch: int,
        actions: Sequence[str],
        prompt: str | None,
        time_to_underrun_s: float,
        context: NDArray[np.float32] | None = None,
    ) -> AsyncIterator[Queued | WarningMessage | Chunk | None]:
        """Generate the session's next chunk; see `WorldSession.step`.

        `context` is the new prompt's; without one, this rank encodes the prompt.
        Yields a place in the queue while a suspended session waits for its memory, which may take
        longer than any step. Then it yields a warning if the prompt is too long, None when the
        chunk has been denoised, and the chunk.
        """
        replies = self._calls.step(session_id, epoch, actions, prompt, time_to_underrun_s, context)
        async for reply in replies:
            yield reply

    async def hand_over(self, session_id: str, secret: str, end: bool) -> HandedOver | None:
        """The session's world, for a transport that does not hold its lease.

        `end` ends the session, and the lease that holds it. None if there is no such session, if
        the secret is not its, or if its world cannot be restored. Works while the group's replica
        drains: this actor has a name.
        """
        return await self._calls.hand_over(session_id, secret, end=end)

    def pause(self, session_id: str, epoch: int) -> None:
        """Free the session's share of the group's speed until its next step; see GroupSessions."""
        self._sessions.pause(session_id, epoch)

    def unpause(self, session_id: str, epoch: int) -> None:
        """Take a pause back while a step waits for the session's memory; see GroupSessions."""
        self._sessions.unpause(session_id, epoch)

    def touch(self, session_id: str, epoch: int, report: SessionReport | None = None) -> None:
        """Restart the session's idle time, and keep its transport's report, if there is one."""
        self._sessions.touch(session_id, epoch)
        if report is not None and self._sessions.is_held(session_id, epoch):
            self._reports[session_id] = epoch, report

    def reports(self) -> dict[str, SessionReport]:
        """The last reports of the transports that hold sessions."""
        return {
            session_id: report
            for session_id, (epoch, report) in self._reports.items()
            if self._sessions.is_held(session_id, epoch)
        }

    def end(self, session_id: str, epoch: int, has_moved: bool = False) -> bool:
        """End a session and free its world; its lease may have ended before.

        `has_moved`: its holder goes on with the world in another group. A session that has a later
        lease is left as it is. True for it, and for one that had ended as moved before: another
        socket goes on with its world.
        """
        return self._sessions.end(session_id, epoch, has_moved)

    def memory(self) -> WorldMemory | None:
        """The plan by which this rank was loaded, if there is one."""
        plan = self._worker.engine.memory
        return None if plan is None else describe_memory(plan)

    def busy_s(self) -> float:
        """Seconds that the engine's running call has taken; 0 while the engine is idle."""
        return self._worker.busy_s()

    async def wait_failed(self) -> None:
        """Never returns. Raises the reason when this rank fails.

        The actor call itself fails when the process dies.
        """
        await asyncio.shield(self._failure)

    def _create_worker(self, assignment: RankAssignment) -> "Worker":
        import torch

        from lingbot.parallel.process_group import connect_rendezvous, join
        from lingbot.parallel.ulysses import SINGLE
        from lingbot.runtime.presets import load_text_encoder
        from lingbot.runtime.worker import Worker

        group = SINGLE
        if assignment.num_ranks > 1:
            group = join(
                self._store or connect_rendezvous(assignment.host, assignment.port),
                rank=assignment.rank,
                num_ranks=assignment.num_ranks,
                device=torch.device(self._config.device),
            )
        if assignment.rank == 0 and not self._config.has_text_encoder:
            self._text_encoder = load_text_encoder(self._config.preset)
        return Worker(self._load(group))

    def _create_sessions(self, group_id: str, work: SessionWork) -> GroupSessions:
        worker, engine = self._worker, self._worker.engine

        def suspend(session_id: str) -> "asyncio.Future[bool]":
            return asyncio.wrap_future(worker.suspend(session_id))

        sizes = SessionBytes(engine.memory)
        admission = Admission(
            self._config.group,
            media_s=engine.config.chunk_frames / engine.config.fps,
            session_bytes=sizes.all_together,
            num_steps=engine.config.num_steps,
        )
        return GroupSessions(
            admission,
            ttl_s=self._config.lease_ttl_s,
            grace_s=self._config.resume_grace_s,
            bytes_of=sizes.of,
            release=self._release,
            suspend=suspend if worker.suspend_frees_memory else None,
            finish_calls=work.finish,
            group_id=group_id,
        )

    def _run_worker(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._worker.run()
        except BaseException as exc:
            # This rank's state differs from the other ranks' now, so that the group must end.
            logger.exception("this rank failed; its process exits")
            reason = RuntimeError(f"{type(exc).__name__}: {exc}")
            loop.call_soon_threadsafe(self._failure.set_exception, reason)
            time.sleep(self._exit_grace_s)
            self._exit_process(1)

    def _release(self, session_id: str) -> None:
        """Free what the rank keeps of a session that has ended."""
        self._reports.pop(session_id, None)
        self._calls.release(session_id)

    def _report(self, metrics: CacheMetrics) -> None:
        metrics.report(self._worker.engine.camera_cache.stats)

    def _report_group(self, metrics: GroupMetrics) -> None:
        metrics.report(
            states=Counter(session.state for session in self.sessions()),
            ends=self.ends(),
            num_expired=self._sessions.registry.num_expired,
            num_waiting=len(self._sessions.line),
            num_bytes=self._sessions.admission.num_bytes,
            load=self._sessions.admission.load,
        )

    def _run_every(self, period_s: float, call: Callable[[], None]) -> None:
        async def run() -> None:
            while True:
                await asyncio.sleep(period_s)
                call()

        self._tasks.append(asyncio.create_task(run()))
