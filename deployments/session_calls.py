"""Opens, restores, steps and hands over worlds on rank 0, for the leases of its group."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deployments.encoded_prompt import warn_of_truncation, warn_of_unknown_words
from deployments.group_sessions import GroupSessions
from deployments.rank_replies import Chunk, HandedOver, Opened
from deployments.refusal import Refusal, refusal_of
from deployments.session_work import SessionWork
from lingbot.errors import LingbotError
from lingbot.runtime.snapshot import Snapshot, needed_prompts
from transport.wire.messages import Queued, WarningMessage
from transport.wire.world import WorldSpec

if TYPE_CHECKING:  # imported late: WorldGroup imports this module and stays without torch
    from concurrent.futures import Future

    from lingbot.runtime.commands import Command, OpenSession, RestoreSession
    from lingbot.runtime.worker import Worker
    from lingbot.text.pocket import HashedWordEncoder

Context = NDArray[np.float32]  # [L, text_dim], an encoded prompt

logger = logging.getLogger(__name__)


class SessionCalls:
    """The calls of the leases. One whose lease no longer holds its session yields nothing more.

    An error that nobody reads would be logged.
    """

    def __init__(
        self,
        worker: "Worker",
        sessions: GroupSessions,
        work: SessionWork,
        *,
        text_encoder: "HashedWordEncoder | None",
        prompt_recache: bool,
        notice_period_s: float,
    ) -> None:
        """`work` is that for which `sessions` waits. Without an encoder, calls have contexts.

        A call that waits yields a place in the queue every `notice_period_s`. `prompt_recache`: a
        new prompt rebuilds the window.
        """
        self._worker = worker
        self._sessions = sessions
        self._work = work
        self._text_encoder = text_encoder
        self._prompt_recache = prompt_recache
        self._notice_period_s = notice_period_s
        self._last_frames: dict[str, NDArray[np.uint8]] = {}  # by session

    async def open(
        self,
        session_id: str,
        epoch: int,
        spec: WorldSpec,
        image: NDArray[np.uint8],
        context: Context | None = None,
    ) -> AsyncIterator[Queued | WarningMessage | Refusal | Opened]:
        """See `WorldRank.open`."""
        from lingbot.runtime.commands import OpenSession
        from lingbot.runtime.session import SessionSpec

        if context is None:
            if warning := self._warn_about(spec.prompt):
                yield warning
            context = await self._encode(spec.prompt)
        session_spec = SessionSpec(
            first_frame=image,
            prompt=spec.prompt,
            context=context,
            seed=spec.seed,
            num_steps=spec.num_steps,
            window=spec.window,
            sink=spec.sink,
        )
        async for reply in self._replace(epoch, OpenSession(session_id, session_spec)):
            yield reply

    async def restore(
        self,
        session_id: str,
        epoch: int,
        snapshot: Snapshot,
        contexts: Mapping[str, Context] | None = None,
        exact: bool = False,
    ) -> AsyncIterator[Queued | Refusal | Opened]:
        """See `WorldRank.restore`."""
        from lingbot.runtime.commands import RestoreSession

        if contexts is None:
            prompts = needed_prompts(snapshot, exact=exact)
            contexts = {prompt: await self._encode(prompt) for prompt in prompts}
        command = RestoreSession(
            session_id=session_id, snapshot=snapshot, contexts=dict(contexts), exact=exact
        )
        async for reply in self._replace(epoch, command):
            yield reply

    async def step(
        self,
        session_id: str,
        epoch: int,
        actions: Sequence[str],
        prompt: str | None,
        time_to_underrun_s: float,
        context: Context | None = None,
    ) -> AsyncIterator[Queued | WarningMessage | Chunk | None]:
        """See `WorldRank.step`."""
        from lingbot.runtime.commands import StepSession

        activating = asyncio.ensure_future(self._sessions.activate(session_id, epoch))
        async for notice in self._notices(activating):
            yield notice
        is_held = partial(self._sessions.is_held, session_id, epoch)
        if prompt is not None and context is None and is_held():
            if warning := self._warn_about(prompt):
                yield warning
            context = await self._encode(prompt)
        if not is_held():
            return
        recache = self._prompt_recache and prompt is not None
        command = StepSession(
            session_id=session_id,
            actions=list(actions),
            context=context,
            prompt=prompt,
            recache=recache,
        )
        is_live = not self._sessions.is_clip(session_id)
        denoising = self._submit(command, time_to_underrun_s=time_to_underrun_s, is_live=is_live)
        finishing = self._work.start(session_id, self._finish_step(session_id, denoising))
        try:
            await asyncio.shield(denoising)
            yield None
            chunk = await asyncio.shield(finishing)
        except LingbotError:
            if self._sessions.is_held(session_id, epoch):
                raise
            return
        if self._sessions.is_held(session_id, epoch):
            yield chunk

    async def hand_over(self, session_id: str, secret: str, *, end: bool) -> HandedOver | None:
        """See `WorldRank.hand_over`."""
        from lingbot.runtime.commands import TakeSnapshot

        known = self._sessions.withdraw if end else self._sessions.find
        if not known(session_id, secret):
            return None
        try:
            if end:
                await self._work.finish(session_id)
            snapshot = await self._submit(TakeSnapshot(session_id))
            last_frame = self._last_frames.get(session_id)
            age_s, epoch = self._sessions.age_and_epoch(session_id)
            handed = HandedOver(snapshot=snapshot, last_frame=last_frame, age_s=age_s, epoch=epoch)
        except LingbotError as exc:
            logger.warning("session %s cannot be handed over: %s", session_id, exc)
            handed = None
        except BaseException:  # the caller has gone, without an answer
            if end:
                self._sessions.give_back(session_id, secret)
            raise
        if end:
            self._sessions.end_moved(session_id)
        return handed

    def release(self, session_id: str) -> None:
        """Free the world of a session that has ended."""
        self._last_frames.pop(session_id, None)
        self._worker.end_session(session_id)

    async def _replace(
        self, epoch: int, command: "OpenSession | RestoreSession"
    ) -> AsyncIterator[Queued | Refusal | Opened]:
        """Open or restore a world in place of the session's, if it has one."""
        session_id = command.session_id
        claiming = asyncio.ensure_future(self._sessions.claim_memory(session_id, epoch))
        async for notice in self._notices(claiming):
            yield notice
        await self._work.finish(session_id)  # steps that its client has dropped
        if not self._sessions.is_held(session_id, epoch):
            return
        opening = self._work.start(session_id, self._finish_opening(session_id, command))
        while not (await asyncio.wait([opening], timeout=self._notice_period_s))[0]:
            if position := self._worker.position(session_id):
                yield Queued(position)
        try:
            opened = opening.result()
        except LingbotError as exc:
            if self._sessions.is_held(session_id, epoch):
                yield refusal_of(exc)
            return
        if self._sessions.is_held(session_id, epoch):
            yield opened

    async def _finish_opening(
        self, session_id: str, command: "OpenSession | RestoreSession"
    ) -> Opened:
        try:
            result = await self._submit(command)
        except LingbotError:
            self._sessions.mark_faulty(session_id, "refused")
            raise
        except Exception:
            self._sessions.mark_faulty(session_id, "failed")
            raise
        opened = Opened(result.origin, result.last_frame)
        if self._sessions.mark_opened(session_id):
            self._keep_last_frame(session_id, opened.last_frame)
        return opened

    async def _finish_step(
        self, session_id: str, denoising: "Awaitable[Future[tuple[Any, Any]]]"
    ) -> Chunk:
        """The chunk, also for a session whose client has gone: its world has moved on by it."""
        try:
            frames, latents = await asyncio.wrap_future(await denoising)
        except Exception:
            self._sessions.mark_faulty(session_id, "failed")
            raise
        self._sessions.count_chunk(session_id)
        self._keep_last_frame(session_id, frames[-1])
        return Chunk(frames, latents)

    def _keep_last_frame(self, session_id: str, frame: NDArray[np.uint8] | None) -> None:
        if frame is not None and self._sessions.is_live(session_id):
            self._last_frames[session_id] = frame.copy()  # not the whole chunk
        else:
            self._last_frames.pop(session_id, None)

    async def _notices(self, waiting: "asyncio.Future[Any]") -> AsyncIterator[Queued]:
        """A place every now and then until `waiting` is done, so that its caller waits on."""
        while not (await asyncio.wait([waiting], timeout=self._notice_period_s))[0]:
            yield Queued(1)  # in front of all clients
        waiting.result()

    def _warn_about(self, prompt: str) -> WarningMessage | None:
        from lingbot.text.pocket import EXAMPLES

        assert self._text_encoder is not None
        if prompt.strip() and not self._text_encoder.knows(prompt):
            return warn_of_unknown_words(EXAMPLES)
        return warn_of_truncation(self._text_encoder.num_truncated(prompt), "words")

    async def _encode(self, prompt: str) -> Context:
        """A prompt's context. The encoder runs off the event loop, and on rank 0 only."""
        assert self._text_encoder is not None
        return await asyncio.to_thread(self._text_encoder.encode, prompt)

    def _submit(
        self, command: "Command", *, time_to_underrun_s: float = 0.0, is_live: bool = True
    ) -> "asyncio.Future[Any]":
        """Execute a command on all ranks; see `Worker.submit`. The result is rank 0's."""
        deadline = time.monotonic() + time_to_underrun_s
        result = self._worker.submit(command, deadline=deadline, is_live=is_live)
        return asyncio.wrap_future(result)
