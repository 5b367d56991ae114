"""When a task of a connection may go on: the waits for the media clock, for acks and for commands.

Tested in `tests/transport/connection/test_slow_clients.py`.
"""

import math
from collections.abc import Callable

import anyio

from transport.connection.presence import Presence
from transport.wire.errors import Refused

WaitS = Callable[[float], float]  # now, in seconds, to the seconds that are left


class Signal:
    """Wakes all tasks that wait for it."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = anyio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class Turn:
    """The turns of one task, which generates or sends."""

    def __init__(
        self,
        wait_s: WaitS,
        *,
        changed: Signal,
        presence: Presence,
        ack_timeout_s: float,
        command_s: WaitS = lambda now_s: math.inf,
    ) -> None:
        """`wait_s` is infinite until an ack or keys arrive, and in a pause. `changed` wakes it.

        `command_s` interrupts the wait: it gives the seconds until something else is to be done.
        """
        self._wait_s = wait_s
        self._changed = changed
        self._presence = presence
        self._ack_timeout_s = ack_timeout_s
        self._command_s = command_s
        self._silent_s: float | None = None  # since when an ack is missing

    async def wait(self) -> float:
        """Returns the seconds that it took, without a pause. Raises Refused for a late ack."""
        started_s = anyio.current_time()
        while (remaining_s := self._wait_s(now_s := anyio.current_time())) > 0:
            if (command_s := self._command_s(now_s)) <= 0:
                break
            timeout_s = self._ack_timeout(remaining_s, now_s)
            if timeout_s <= 0:
                text = f"no ack within {self._ack_timeout_s:g} s"
                raise Refused(text, code="timeout", close_code=1008)
            with anyio.move_on_after(min(remaining_s, timeout_s, command_s)):
                await self._changed.wait()
        else:
            self._silent_s = None
        return anyio.current_time() - max(started_s, self._presence.resumed_s)

    def _ack_timeout(self, remaining_s: float, now_s: float) -> float:
        """Seconds for which an ack may still be missing. A pause needs none."""
        if remaining_s < math.inf or self._presence.awaits_keys:
            self._silent_s = None
            return math.inf
        if self._presence.is_paused:
            return math.inf
        self._silent_s = max(self._silent_s or now_s, self._presence.resumed_s)
        return self._silent_s + self._ack_timeout_s - now_s
