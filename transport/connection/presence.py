"""Pauses a session while its client is away, and ends it when its time is up.

Tested in `tests/transport/connection/test_pausing.py`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio

from transport.connection.sender import MessageSender
from transport.observer import SessionObserver
from transport.wire.errors import SessionEnded
from transport.wire.limits import ClientLimits
from transport.wire.messages import EndingReason, Paused, Resumed
from transport.wire.protocol import ServerProtocol
from transport.wire.world import WorldSession


class Presence:
    """Carries out what the idle clock of one session decides."""

    def __init__(
        self, protocol: ServerProtocol, *, limits: ClientLimits, observer: SessionObserver
    ) -> None:
        self._protocol = protocol
        self._limits = limits
        self._observer = observer
        self._noted = anyio.Event()
        self._stepping = False
        self.resumed_s = -math.inf  # when the last pause ended, on the event loop's clock

    @property
    def is_paused(self) -> bool:
        return self._protocol.idle.paused is not None

    @property
    def awaits_keys(self) -> bool:
        """True if a session on demand has nothing to do; see `ServerProtocol.awaits_keys`."""
        return self._protocol.awaits_keys

    def note_message(self) -> None:
        """A message has arrived: the client may have returned or left the page."""
        self._noted.set()
        self._noted = anyio.Event()

    @contextmanager
    def step_of(self, session: WorldSession) -> Iterator[None]:
        """A step of the session. A pause that began meanwhile reaches the world after it."""
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False
        if self.is_paused:
            session.pause()

    def note_wait(self, session: WorldSession) -> bool:
        """A step of the session waits for a place. Called twice a second, as calls may be late.

        Returns False for a client that is away, which lets others have the place first.
        """
        call = session.pause if self.is_paused else session.unpause
        call()
        return not self.is_paused

    async def follow(
        self, session: WorldSession, sender: MessageSender, *, on_change: Callable[[], None]
    ) -> None:
        """Pauses and resumes the session. Raises SessionEnded when its time is up.

        `on_change` is called after each pause and resume, before the client hears of it.
        """
        idle = self._protocol.idle
        while True:
            noted, now_s = self._noted, anyio.current_time()
            if reason := idle.ended(now_s):
                raise SessionEnded(self._describe(reason))
            busy = self._protocol.controls.is_busy
            changes = idle.poll(now_s, busy=busy)
            for change in changes:
                if isinstance(change, Resumed):
                    self.resumed_s = now_s
                    self._protocol.note_resume()
                    self._observer.moved("active")
                elif isinstance(change, Paused):
                    self._observer.moved("paused")
                    if not self._stepping:
                        session.pause()
            if changes:
                on_change()
            for change in changes:
                await sender.send(self._protocol.send_notice(change))
            wait_s = idle.wait_s(anyio.current_time(), busy=busy)
            with anyio.move_on_after(wait_s):
                await noted.wait()

    def _describe(self, reason: EndingReason) -> str:
        if reason == "idle":
            return f"the session was paused for {self._limits.max_paused_s:g} s, its longest pause"
        return f"the session was open for {self._limits.max_session_s:g} s, its longest time"
