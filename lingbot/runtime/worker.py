"""One rank of a group: rank 0 decides which command is next, and every rank executes it.

Each rank runs `Worker.run` in the thread that owns its engine. Rank 0 schedules its commands and
broadcasts each one before executing it; the other ranks execute what they receive. All engines are
therefore in the same state and take part in the same collectives.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lingbot.config import Size
from lingbot.errors import LingbotError, SessionClosed
from lingbot.parallel.command_channel import CommandChannel
from lingbot.runtime.commands import (
    CloseSession,
    Command,
    ContinueRestore,
    Heartbeat,
    Opening,
    OpenSession,
    RestoreSession,
    ResumeSession,
    StepSession,
    Stop,
    SuspendSession,
    TakeSnapshot,
    decode_command,
    encode_command,
)
from lingbot.runtime.engine import Engine
from lingbot.runtime.free_memory import free_host_memory
from lingbot.runtime.restore_chain import RestoreChain
from lingbot.runtime.restoring import Part, Restoration
from lingbot.runtime.scheduler import Scheduler, Ticket
from lingbot.runtime.session import Session
from lingbot.runtime.snapshot import RESUMED_CHUNKS

HEARTBEAT_S = 5.0  # well within the collectives' timeout
SUSPEND_BYTES = 2**28  # of a rank in one command, so that no other session waits for long
OPENINGS = (OpenSession, RestoreSession, ContinueRestore)
HOST_RESERVE = 2**30  # bytes of host memory that suspended sessions leave free

logger = logging.getLogger(__name__)

T = TypeVar("T")
Frames = NDArray[np.uint8]
Chunk = tuple[Frames, NDArray[Any]]  # frames [T, H, W, 3], latents [16, F, h, w]


@dataclass(frozen=True, slots=True)
class Request:
    """A command, and the future of its result."""

    command: Command
    message: bytes  # the command as the other ranks receive it; empty without other ranks
    result: "Future[Any]" = field(default_factory=Future)


class Worker:
    """One rank's engine, sessions and commands."""

    def __init__(
        self,
        engine: Engine,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        clock: Callable[[], float] = time.monotonic,
        free_host: Callable[[], int | None] = free_host_memory,
    ) -> None:
        """`heartbeat_s` is the period of an idle group's heartbeats.

        It must be shorter than the timeout of the group's collectives. `free_host` returns the
        bytes of host memory that are free; None: unknown.
        """
        self.engine = engine
        self._group = engine.group
        self._clock = clock
        self._free_host = free_host
        self._sessions: dict[str, Session] = {}
        self._restoring: dict[str, Restoration] = {}
        several = self._group.num_ranks > 1
        self._chunk_s = engine.config.chunk_frames / engine.config.fps  # of media
        self._scheduler: Scheduler[Request] = Scheduler(
            heartbeat=partial(self._request, Heartbeat()) if several else None,
            heartbeat_s=heartbeat_s,
        )
        self._changed = threading.Condition()  # guards the scheduler
        self._channel = CommandChannel() if several else None
        self._decoding = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
        self._busy_since: dict[int, float] = {}  # by thread
        self._last_chunk: Future[Chunk] | None = None
        self.is_warming_up = False  # every steady chunk is measured
        # Called on rank 0, on any thread, after a measured chunk: with its size, and with the
        # seconds of its denoising and decoding. A session's first chunks are not measured, nor is
        # one that was denoised while nothing was decoded, nor one of other steps or another window.
        self.on_chunk: Callable[[Size, float, float], None] | None = None

    @property
    def is_leader(self) -> bool:
        """True on rank 0, which takes commands."""
        return self._group.rank == 0

    def submit(self, command: Command, *, deadline: float, is_live: bool = True) -> "Future[Any]":
        """Queue a command on rank 0, from any thread; `deadline` is a time of `time.monotonic`.

        The earliest deadline is executed first. A step's deadline is the time at which its client
        has nothing left to play.

        An open may wait for one chunk of media after its `deadline`, and as long after the end of
        the open before it. Until then, the steps that are waiting go first, so that each is delayed
        by one open at most. Each part of a restoration counts as an open, and so does a step of a
        session that nobody watches (`is_live` False).

        Cancelling the future of a queued command removes the command. The future of a restoration
        cannot be cancelled: `end_session` ends it. Raises UnicodeEncodeError for a command that
        cannot be sent to the other ranks.
        """
        if isinstance(command, RestoreSession):
            queue = partial(self._submit, deadline=deadline)
            return RestoreChain(command, submit=queue, decode=self._decode_past).result
        return self._submit(command, deadline=deadline, is_live=is_live)

    def _submit(self, command: Command, *, deadline: float, is_live: bool = True) -> "Future[Any]":
        request = self._request(command)
        owner = getattr(command, "session_id", "")
        may_wait = isinstance(command, OPENINGS) or not is_live
        spacing_s = self._chunk_s if may_wait else 0.0
        with self._changed:
            ticket = self._scheduler.add(
                request, owner=owner, deadline=deadline, spacing_s=spacing_s
            )
            self._changed.notify()
        request.result.add_done_callback(partial(self._forget_cancelled, ticket))
        return request.result

    def end_session(self, session_id: str) -> None:
        """On rank 0, from any thread: remove the session's queued commands, and free the session.

        The futures of the removed commands raise SessionClosed. A running command is finished
        first. An unknown session is ignored.
        """
        with self._changed:
            removed = self._scheduler.cancel_owner(session_id)
        for request in removed:
            if request.result.set_running_or_notify_cancel():
                request.result.set_exception(SessionClosed(f"session {session_id} has ended"))
        self.submit(CloseSession(session_id), deadline=-math.inf)

    @property
    def suspend_frees_memory(self) -> bool:
        """False where a session's tensors are in host memory anyway: `suspend` costs nothing."""
        return self.engine.suspend_frees_memory

    def suspend(self, session_id: str) -> "Future[bool]":
        """On rank 0, from any thread: move the session's tensors to host memory, part by part.

        The result is True once they are all there. It is False if they are on the device again: a
        step came first, or host memory has too little room. Raises SessionClosed. Its next
        step or the command ResumeSession resumes the session.
        """
        result: Future[bool] = Future()
        result.set_running_or_notify_cancel()  # nobody may cancel it: the parts would still move
        self._suspend(SuspendSession(session_id, is_first=True), result)
        return result

    def position(self, session_id: str) -> int | None:
        """The place of the session's open, from 1; None if it has none.

        The steps of clips count, too: they take turns with the opens.
        """
        with self._changed:
            return self._scheduler.position(session_id)

    def run(self) -> None:
        """Execute commands until Stop.

        A LingbotError goes to the caller. Any other exception may have happened on one rank only,
        so with several ranks it ends `run`.
        """
        step = self._lead if self.is_leader else self._follow
        while step():
            pass

    def busy_s(self) -> float:
        """Seconds that the longest running call has taken; 0 while the engine is idle."""
        now = self._clock()
        return max((now - since for since in list(self._busy_since.values())), default=0.0)

    def _lead(self) -> bool:
        request = self._next()
        self._broadcast(request)
        self._resolve(request)
        return not isinstance(request.command, Stop)

    def _follow(self) -> bool:
        assert self._channel is not None
        command = decode_command(self._channel.receive())
        with suppress(LingbotError):  # rank 0 raises it to the caller
            self._execute(command)
        return not isinstance(command, Stop)

    def _next(self) -> Request:
        """Wait for the most urgent request, and mark its future as running."""
        while True:
            with self._changed:
                now = self._clock()
                request = self._scheduler.next(now)
                if request is None:
                    self._changed.wait(self._scheduler.wait_s(now))
                    continue
            if request.result.set_running_or_notify_cancel():
                return request

    def _broadcast(self, request: Request) -> None:
        if self._channel is not None:
            self._channel.send(request.message)

    def _resolve(self, request: Request) -> None:
        try:
            request.result.set_result(self._execute(request.command))
        except LingbotError as exc:
            request.result.set_exception(exc)
        except BaseException as exc:
            if self._group.num_ranks > 1:
                raise
            request.result.set_exception(exc)

    def _execute(self, command: Command) -> Any:
        match command:
            case OpenSession():
                return self._open(command)
            case RestoreSession() | ContinueRestore():
                return self._advance(command)
            case TakeSnapshot():
                return find(self._sessions, command.session_id).snapshot(num_more=RESUMED_CHUNKS)
            case StepSession():
                return self._step(command)
            case SuspendSession():
                return self._move_out(command)
            case ResumeSession():
                if session := self._sessions.get(command.session_id):
                    self._timed(self.engine.resume, session)
                return False
            case CloseSession():
                self._close(command.session_id)
        return None

    def _open(self, command: OpenSession) -> Opening:
        self.engine.check_open(command.spec)
        self._close(command.session_id)
        session = self._timed(self.engine.open, command.spec)
        self._sessions[command.session_id] = session
        return Opening(session.origin)

    def _close(self, session_id: str) -> None:
        """Free a session, or one that is being restored."""
        if restoration := self._restoring.pop(session_id, None):
            self.engine.close(restoration.session)
        if session := self._sessions.pop(session_id, None):
            self.engine.close(session)

    def _advance(self, command: RestoreSession | ContinueRestore) -> Part:
        """The first or the next part of a restoration."""
        name = command.session_id
        if isinstance(command, RestoreSession):
            request = (command.snapshot, command.contexts, command.exact)
            self.engine.check_restore(*request)
            self._close(name)  # before the new session takes its memory
            self._restoring[name] = self._timed(self.engine.begin_restore, *request)
        try:
            part = self._timed(find(self._restoring, name).advance)
        except BaseException:
            self._close(name)
            raise
        if part.is_last:
            self._sessions[name] = self._restoring.pop(name).session
        return part

    def _decode_past(self, session_id: str, latents: Tensor) -> "Future[Frames]":
        """Decode a past chunk of a session that is being restored."""
        decode = self.engine.decode
        return self._decoding.submit(
            self._timed, lambda: decode(find(self._restoring, session_id).session, latents)
        )

    def _step(self, command: StepSession) -> "Future[Chunk] | None":
        session = find(self._sessions, command.session_id)
        # A chunk that is denoised while none is decoded is faster than those of a busy group.
        is_overlapped = self._last_chunk is not None and not self._last_chunk.done()
        is_measured = (
            self.on_chunk is not None
            and (is_overlapped or self.is_warming_up)
            and not command.recache
            and session.is_steady
            and session.has_default_speed
        )
        began = self._clock()
        options = {name: getattr(command, name) for name in ("context", "prompt", "recache")}
        latents = self._timed(partial(self.engine.denoise, session, command.actions, **options))
        if not self.is_leader:
            return None
        denoising_s = self._clock() - began if is_measured else None
        kept = self.engine.newest_latents(session)
        self._last_chunk = self._decoding.submit(self._decode, session, latents, kept, denoising_s)
        return self._last_chunk

    def _decode(
        self, session: Session, latents: Tensor, kept: NDArray[Any], denoising_s: float | None
    ) -> Chunk:
        """A chunk's frames and latents. A chunk whose denoising has been timed is reported."""
        began = self._clock()
        frames = self._timed(self.engine.decode, session, latents)
        if self.on_chunk is not None and denoising_s is not None:
            self.on_chunk(session.size, denoising_s, self._clock() - began)
        return frames, kept

    def _suspend(self, command: SuspendSession, result: "Future[bool]") -> None:
        """Queue the next part of a suspension, which settles `result` or is followed by another."""
        name = command.session_id
        free = self._free_host() if self.suspend_frees_memory else None
        needed = self._group.num_ranks * SUSPEND_BYTES + HOST_RESERVE
        part: Command = command
        if free is not None and free < needed:
            logger.warning("session %s keeps its memory: %d bytes of host memory free", name, free)
            part = ResumeSession(name)

        def proceed(done: "Future[bool | None]") -> None:
            if (exc := done.exception()) is not None:
                result.set_exception(exc)
            elif (outcome := done.result()) is None:
                self._suspend(SuspendSession(name, is_first=False), result)
            else:
                result.set_result(outcome)

        # Later than the steps that are due, but not later than all those to come.
        deadline = self._clock() + self._chunk_s
        self.submit(part, deadline=deadline).add_done_callback(proceed)

    def _move_out(self, command: SuspendSession) -> bool | None:
        session = find(self._sessions, command.session_id)
        if not command.is_first and session.suspension is None:
            return False
        if command.is_first and self.is_leader:
            self._decoding.submit(int).result()  # the chunks of the session have been decoded now
        return self._timed(partial(self.engine.suspend, session, max_bytes=SUSPEND_BYTES)) or None

    def _timed(self, call: Callable[..., T], *args: Any) -> T:
        thread = threading.get_ident()
        self._busy_since[thread] = self._clock()
        try:
            return call(*args)
        finally:
            del self._busy_since[thread]

    def _request(self, command: Command) -> Request:
        return Request(command, encode_command(command) if self._channel is not None else b"")

    def _forget_cancelled(self, ticket: Ticket, result: "Future[Any]") -> None:
        if result.cancelled():
            with self._changed:
                self._scheduler.cancel(ticket)


def find(sessions: Mapping[str, T], session_id: str) -> T:
    """The session of this name. Raises SessionClosed without one."""
    if (session := sessions.get(session_id)) is None:
        raise SessionClosed(f"session {session_id} is not open")
    return session
