"""How long a client waits for a world before it gives up."""

from typing import Literal

Waiting = Literal["starting", "queued"]


class WaitClock:
    """Two clocks of one client: one while a group starts, one while every world is taken.

    Each runs only in its own state, so that nobody gives up a place because a group is coming up,
    and no group that restarts gives anybody a second full wait. Every `now` is in seconds of one
    monotonic clock.
    """

    def __init__(self, *, queue_timeout_s: float, warm_up_timeout_s: float, now: float) -> None:
        self._timeouts: dict[Waiting, float] = {
            "starting": warm_up_timeout_s,
            "queued": queue_timeout_s,
        }
        self._spent: dict[Waiting, float] = {"starting": 0.0, "queued": 0.0}
        self._state: Waiting | None = None  # None: not known yet
        self._start = self._noted = now

    def note(self, state: Waiting, now: float) -> None:
        """Note the client's state from now on. The time before the first note is counted, too."""
        self._spent[self._state or state] += now - self._noted
        self._state, self._noted = state, now

    def give_up_reason(self, now: float) -> str | None:
        """Why the client must give up now, or None if it may go on waiting."""
        if self._state is None:
            return None
        timeout_s = self._timeouts[self._state]
        if self._spent[self._state] + now - self._noted <= timeout_s:
            return None
        queued = self._state == "queued"
        cause = "every world is taken" if queued else "the world is still warming up"
        return f"{cause}; gave up after {timeout_s:g} s"

    def waited_s(self, now: float) -> float:
        """Seconds since the client asked first: `Demand.waited_s` when it asks again."""
        return now - self._start
