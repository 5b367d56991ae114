"""A session that outlives its replica group: its world goes on in another one."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Coroutine, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from deployments.detached_histories import DetachedHistories
from deployments.encoded_prompt import EncodedPrompt, warn_of_truncation
from deployments.history_budget import budget_of
from deployments.lease import TAKEN_OVER, Context, Contexts, Frames, HeldLease
from deployments.left_worlds import LeftWorlds, TakenWorld
from deployments.mover import Leases, Mover
from deployments.observability.session_reports import SessionReport
from deployments.pending_chunk import PendingChunk
from deployments.saved_world import check_openable
from deployments.sessions.admission import Demand
from lingbot.errors import LingbotError
from lingbot.runtime.history import History
from lingbot.runtime.snapshot import RESUMED_CHUNKS, Snapshot, encode_snapshot, needed_prompts
from transport.wire.errors import Refused, TakenOver, TransportError, WorldFailed, WorldLost
from transport.wire.limits import ClientLimits
from transport.wire.messages import Moved, Queued, Starting, WarningMessage
from transport.wire.world import OnWait

logger = logging.getLogger(__name__)


class Cluster(Leases, Protocol):
    """The world that opened the session, as the session uses it."""

    limits: ClientLimits

    left: LeftWorlds
    histories: DetachedHistories

    async def encode(self, prompt: str) -> tuple[Context, WarningMessage | None]: ...

    async def contexts_of(self, snapshot: Snapshot, known: Contexts) -> Contexts | None:
        """The encoded prompts of a snapshot; None where the ranks encode them."""
        ...

    def report(self, session_id: str) -> SessionReport | None: ...

    def is_draining(self) -> bool:
        """True once this process must hand its sockets over."""
        ...


class PortableSession:
    """One open world, wherever it is. It keeps all that is needed to restore the world."""

    def __init__(
        self,
        cluster: Cluster,
        lease: HeldLease,
        history: History,
        *,
        demand: Demand,
        on_wait: OnWait,
        last_frame: NDArray[np.uint8] | None = None,
        contexts: Contexts | None = None,
        encoded: EncodedPrompt | None = None,
    ) -> None:
        """The world is open on the `lease`, and its past is in the `history`.

        `demand` is that of another lease. `on_wait` gets the client's status while the world has
        none. `contexts` are the world's encoded prompts, and `encoded` is that of a new world.
        """
        self.id = lease.session_id
        self.last_frame = last_frame
        self._cluster = cluster
        self._history = history
        self._is_resumable = demand.resumable
        self._opened_at = asyncio.get_running_loop().time() - lease.age_s  # the first time
        self._client_waits = on_wait
        self._contexts = dict(contexts or {})
        self._notices: list[WarningMessage | Moved] = []
        if encoded is not None:
            self._contexts[history.prompt] = encoded.context
            if warning := warn_of_truncation(encoded.num_truncated, "tokens"):
                self._notices.append(warning)
        self._pending: deque[PendingChunk] = deque()
        self._calls: set[asyncio.Task[None]] = set()  # those that run on the lease
        self._is_paused = False
        self._forked: tuple[bytes, str] | None = None  # the last fork: its digest and its token
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        lease.report = self._report
        self._known_token, self._known_epoch = str(lease.token), lease.epoch  # to the client
        self._mover = Mover(
            cluster,
            lease,
            demand=lambda: replace(demand, returning=True, age_s=self.age_s),
            name=self.id,
            settle=self._calls_ended,
            enter=self._enter,
            chunk_index=lambda: self._history.next_chunk,
            on_wait=self._tell,
            on_fail=self._note_failure,
            # The client of a process that drains resumes elsewhere, and takes its world along.
            may_leave=lambda: not (self._is_resumable and cluster.is_draining()),
        )

    # ---- for the connection

    @property
    def chunk_index(self) -> int:
        return self._history.next_chunk + len(self._pending)

    @property
    def age_s(self) -> float:
        return asyncio.get_running_loop().time() - self._opened_at

    @property
    def earliest_chunk(self) -> int:
        return self._history.earliest

    @property
    def resume_token(self) -> str | None:
        lease = self._mover.lease
        return str(lease.token) if lease is not None and self._is_resumable else None

    async def step(
        self, actions: Sequence[str], *, prompt: str | None, time_to_underrun_s: float
    ) -> Awaitable[Frames]:
        lease = await self._mover.place()
        context = None if prompt is None else self._contexts.get(prompt)
        chunk = PendingChunk(tuple(actions), prompt, context, time_to_underrun_s)
        self._pending.append(chunk)
        self._is_paused = False
        self._call(lease, self._produce(chunk, lease))
        await asyncio.shield(chunk.denoised)
        return chunk

    async def encode(self, prompt: str) -> None:
        """Raises Busy, WorldLost or WorldFailed; see `PromptEncoder.encode`."""
        context, warning = await self._cluster.encode(prompt)
        past = needed_prompts(self._history.snapshot())  # a restoration needs them
        used = {*past, *(chunk.prompt for chunk in self._pending)}
        self._contexts = {text: each for text, each in self._contexts.items() if text in used}
        self._contexts[prompt] = context
        if warning is not None:
            self._notices.append(warning)

    async def save(self) -> bytes:
        """Raises Refused for a world that no `init` could bring back."""
        data = await self._encode()
        check_openable(data, self._cluster.limits)
        return data

    async def fork(self) -> tuple[str, int]:
        """Raises Refused if the fork cannot be stored. The same world again has the same token."""
        forks = self._cluster.left.forks
        if forks is None:
            raise Refused("this server keeps no forks")
        data = await self._encode()
        digest = sha256(data).digest()
        known = self._forked[1] if self._forked is not None and self._forked[0] == digest else None
        token = await forks.fork(data, session=self.id, token=known)
        self._forked = digest, token
        return token, int(forks.ttl_s)

    async def rewind(self, chunk_index: int) -> None:
        await self._settle()
        if chunk_index == self.chunk_index:
            return
        try:
            target = self._history.snapshot(chunk_index)
        except LingbotError as exc:
            raise Refused(str(exc), field="chunk_index") from exc
        await self._encode_prompts_of(target)
        self._history.rewind(chunk_index)
        await self._restore_here()

    async def reset(self, *, seed: int | None, prompt: str | None) -> None:
        await self._settle()
        last = self._history
        prompt = last.prompt if prompt is None else prompt
        origin = last.origin if seed is None else replace(last.origin, seed=seed)
        budget = budget_of(origin, self._cluster.config)
        history = History(origin, prompt=prompt, budget_bytes=budget)
        await self._encode_prompts_of(history.snapshot())
        self._history = history
        await self._restore_here()

    def take_notices(self) -> list[WarningMessage | Moved]:
        if self._mover.lease is not None:
            self._notices += self._mover.lease.take_warnings()
        notices, self._notices = self._notices, []
        for notice in notices:
            if isinstance(notice, Moved) and notice.resume_token is not None:
                self._known_token, self._known_epoch = notice.resume_token, 1
        return notices

    def pause(self) -> None:
        self._is_paused = True
        if self._mover.lease is not None:
            self._mover.lease.pause()

    def unpause(self) -> None:
        self._is_paused = False
        if self._mover.lease is not None:
            self._mover.lease.unpause()

    async def lost(self) -> str:
        """Raises WorldFailed where the world is lost by an error of its own, and TakenOver."""
        return await asyncio.shield(self._lost)

    def close(self) -> None:
        self._mover.close()
        self._stop()

    def detach(self) -> None:
        """The world waits in its group. One that has no group to wait in is stored."""
        lease = self._mover.lease
        is_open = self.is_open
        is_known = lease is not None and str(lease.token) == self._known_token
        if not self._is_resumable or (self._mover.can_detach and is_known):
            self._mover.detach()
        else:
            if is_open:
                left = self._history.snapshot(num_more=RESUMED_CHUNKS)
                world = TakenWorld(snapshot=left, age_s=self.age_s, claim=self._known_epoch)
                self._cluster.left.store(self._known_token, world)
            self._mover.close()
        if self._is_resumable and is_open:
            self._cluster.histories.keep(self._known_token, self._history)
        self._stop()

    # ---- for the world

    @property
    def is_open(self) -> bool:
        return self._mover.error is None

    def end(self, reason: str) -> None:
        """End the session as a lost world, with `reason` for its client."""
        self._mover.fail(WorldLost(reason))

    def note_resumed(self, newer: HeldLease) -> None:
        """End the session if that lease has taken it over, of which its own may hear later."""
        lease = self._mover.lease
        if lease is not None and lease.token == newer.token and lease.epoch < newer.epoch:
            self._mover.fail(TAKEN_OVER.error)

    def world_now(self) -> Snapshot:
        """The world after the last chunk that has arrived."""
        return self._history.snapshot()

    def note_groups(self, running: frozenset[str]) -> None:
        """Serve's running groups have changed; see `Mover.note_groups`."""
        self._mover.note_groups(running)

    # ---- chunks

    def _call(self, lease: HeldLease, call: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Make a call in the background, so that a caller that leaves does not interrupt it.

        A lease that is lost by the call is left.
        """

        async def run() -> None:
            try:
                await call
            except (WorldLost, WorldFailed) as exc:
                self._mover.note_loss(lease, exc)
            except Exception:
                logger.exception("session %s failed", self.id)
                self._mover.fail(WorldFailed())

        task = asyncio.create_task(run())
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    async def _calls_ended(self) -> None:
        """Returns when no call runs on the lease. Those that failed are repeated by `_enter`."""
        while self._calls:
            await asyncio.wait(self._calls)

    async def _produce(self, chunk: PendingChunk, lease: HeldLease) -> None:
        """Have a chunk generated. Raises WorldLost or WorldFailed."""
        reply = await lease.step(
            chunk.actions,
            prompt=chunk.prompt,
            time_to_underrun_s=chunk.time_to_underrun_s,
            context=chunk.context,
            on_wait=self._tell,
        )
        if lease is not self._mover.lease:
            return  # the chunk is repeated elsewhere
        chunk.note_denoised()
        result = await reply
        if lease is self._mover.lease:
            chunk.result = result
            self._deliver()

    def _deliver(self) -> None:
        """Note the chunks that have arrived, in their order."""
        while self._pending and (result := self._pending[0].result) is not None:
            chunk = self._pending.popleft()
            recache = self._cluster.config.prompt_recache
            self._history.append(result.latents, chunk.actions, chunk.prompt, recache=recache)
            chunk.note_denoised()
            chunk.frames.set_result(result.frames)

    async def _encode(self) -> bytes:
        await self._settle()
        return await asyncio.to_thread(encode_snapshot, self._history.snapshot())

    async def _settle(self) -> None:
        """Returns when all chunks have arrived. Raises the reason if the session has ended."""
        await self._mover.place()
        while self._pending:
            await asyncio.wait([self._pending[-1].frames])
            await self._mover.place()

    # ---- places

    async def _encode_prompts_of(self, snapshot: Snapshot) -> None:
        """Raises Refused for an error of the text encoder, which leaves the world as it was."""
        try:
            self._contexts |= await self._cluster.contexts_of(snapshot, self._contexts) or {}
        except TransportError as exc:
            raise Refused(f"the world stays as it was: {exc}") from exc

    async def _restore_here(self) -> None:
        """Replace the world by that of the history, in the same place if it is not lost."""
        lease = await self._mover.place()
        await asyncio.shield(self._call(lease, self._restore(lease)))
        await self._mover.place()

    async def _restore(self, lease: HeldLease) -> None:
        snapshot = self._history.snapshot()
        contexts = await self._cluster.contexts_of(snapshot, self._contexts)
        self._contexts |= contexts or {}
        try:
            await lease.restore(snapshot, contexts, on_wait=self._tell)
        except Refused as exc:
            raise WorldFailed(f"the world could not be restored: {exc}") from exc

    async def _enter(self, lease: HeldLease) -> None:
        """Restore the world on a lease, and repeat the chunks that had not arrived."""
        await self._restore(lease)
        lease.report = self._report
        self._mover.adopt(lease)
        if self._is_resumable:
            self._cluster.left.forward(self._known_token, self._known_epoch, str(lease.token))
        index = self._history.next_chunk
        self._notices = [one for one in self._notices if not isinstance(one, Moved)]
        self._notices.append(Moved(index, self.resume_token))
        place = lease.group_id, lease.session_id
        logger.info("session %s goes on in group %s as %s, at chunk %d", self.id, *place, index)
        for chunk in list(self._pending):
            chunk.result = None
            await self._produce(chunk, lease)
        if self._is_paused:
            lease.pause()

    def _report(self) -> SessionReport | None:
        return self._cluster.report(self.id)

    async def _tell(self, status: Queued | Starting) -> None:
        """Send the client its status. A client that refuses to wait keeps its world, too."""
        with suppress(Exception):
            await self._client_waits(status)

    def _note_failure(self, error: TransportError) -> None:
        """Answer all calls with an error that ends the session."""
        if isinstance(error, WorldLost):
            self._lost.set_result(str(error))
        else:
            self._lost.set_exception(error)
            self._lost.exception()  # it may be that nobody awaits it
        if isinstance(error, TakenOver) and (token := self.resume_token) is not None:
            self._cluster.histories.keep(token, self._history)  # the other may be of this process
        self._fail_pending(error)

    def _stop(self) -> None:
        for task in self._calls:
            task.cancel()
        self._fail_pending(WorldLost("the session is closed"))

    def _fail_pending(self, error: TransportError) -> None:
        while self._pending:
            self._pending.popleft().fail(error)
