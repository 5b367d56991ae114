"""The ranks of a group in step: rank 0 decides what is next, and every rank does it.

Each rank runs ``Worker.run`` in the thread that owns its engine. Rank 0 takes its commands from a
queue and broadcasts each one before it obeys it; the others obey what they receive. So all engines
are in the same state, and meet in the same collectives. Alone, a rank obeys its queue.
"""

import itertools
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, PriorityQueue
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lingbot.errors import LingbotError, SessionClosed
from lingbot.parallel.command_channel import CommandChannel
from lingbot.runtime.commands import DECODER, ENCODER, Close, Command, Heartbeat, Open, Step, Stop
from lingbot.runtime.engine import Engine
from lingbot.runtime.session import Session, SessionSpec

HEARTBEAT_S = 5.0  # an idle group says so this often, well within the collectives' timeout

T = TypeVar("T")
Frames = NDArray[np.uint8]


@dataclass(order=True, slots=True)
class Request:
    """A command in rank 0's queue: the earliest deadline first, then who came first."""

    deadline: float
    number: int
    command: Command = field(compare=False)
    message: bytes = field(compare=False)  # the command as the other ranks receive it
    result: "Future[Any]" = field(compare=False)


class Worker:
    """One rank's engine, sessions and commands."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._group = engine.group
        self._sessions: dict[str, Session] = {}
        self._queue: PriorityQueue[Request] = PriorityQueue()
        self._numbers = itertools.count()
        self._channel = CommandChannel()
        self._decoding = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
        self._busy: dict[int, float] = {}  # since when, by thread

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which takes commands."""
        return self._group.rank == 0

    def submit(self, command: Command, *, deadline: float) -> "Future[Any]":
        """Rank 0, any thread: obey this when it is the most urgent; `deadline` of time.monotonic.

        A session's chunk is due when its client has nothing left to show. Every deadline passes in
        the end, so everybody's turn comes. Raises what a command raises that cannot be encoded.
        """
        request = Request(deadline, next(self._numbers), command, self._encode(command), Future())
        self._queue.put(request)
        return request.result

    def warm_up(self) -> None:
        """Rank 0, while it runs: every shape once, from a first chunk until a window went round."""
        config, name, now = self.engine.config, "warm-up", -math.inf
        grey = np.full((config.height, config.width, 3), 128, np.uint8)
        self.submit(
            Open(name, SessionSpec(first_frame=grey, prompt="warm up")), deadline=now
        ).result()
        for _ in range(-(-config.window // config.chunk) + 1):
            self.submit(Step(name, [""] * config.chunk), deadline=now).result().result()
        self.submit(Close(name), deadline=now).result()

    def run(self) -> None:
        """Obey commands until Stop.

        What an engine refuses is the asker's business. Any other error may have hit this rank
        alone: with several ranks it is raised, because they are not in step any more.
        """
        obey = self._lead if self.leads else self._follow
        while obey():
            pass

    def busy_s(self) -> float:
        """How long the longest call that is running has taken; 0 while the engine rests."""
        now = time.monotonic()
        return max((now - since for since in list(self._busy.values())), default=0.0)

    def _lead(self) -> bool:
        request = self._next()
        if not request.result.set_running_or_notify_cancel():
            return True  # nobody waits for it any more
        if self._group.num_ranks > 1:
            self._channel.send(request.message)
        try:
            request.result.set_result(self._obey(request.command))
        except LingbotError as exc:
            request.result.set_exception(exc)
        except BaseException as exc:
            if self._group.num_ranks > 1:
                raise
            request.result.set_exception(exc)
        return not isinstance(request.command, Stop)

    def _follow(self) -> bool:
        command: Command = DECODER.decode(self._channel.receive())
        with suppress(LingbotError):  # rank 0 tells whoever asked
            self._obey(command)
        return not isinstance(command, Stop)

    def _encode(self, command: Command) -> bytes:
        return ENCODER.encode(command) if self._group.num_ranks > 1 else b""

    def _next(self) -> Request:
        if self._group.num_ranks == 1:
            return self._queue.get()
        try:
            return self._queue.get(timeout=HEARTBEAT_S)
        except Empty:
            return Request(0.0, 0, Heartbeat(), self._encode(Heartbeat()), Future())

    def _obey(self, command: Command) -> Any:
        match command:
            case Open():
                self._sessions[command.session_id] = self._timed(self.engine.open, command.spec)
            case Step():
                return self._step(command)
            case Close():
                if session := self._sessions.pop(command.session_id, None):
                    self.engine.close(session)
        return None

    def _step(self, command: Step) -> "Future[Frames] | None":
        session = self._sessions.get(command.session_id)
        if session is None:
            raise SessionClosed(f"session {command.session_id} is not open")
        latents = self._timed(
            partial(self.engine.denoise, session, command.actions, prompt=command.prompt)
        )
        if not self.leads:
            return None
        return self._decoding.submit(self._timed, self.engine.decode, session, latents)

    def _timed(self, call: Callable[..., T], *args: Any) -> T:
        thread = threading.get_ident()
        self._busy[thread] = time.monotonic()
        try:
            return call(*args)
        finally:
            del self._busy[thread]
