"""When a session is paused, when it resumes, and when it is ended.

A session without keys and events is paused after a while, a hidden one at once. A session that is
paused or open for too long is ended, which is announced before.

Pure: time is an argument, in seconds of any steady clock.
"""

import math

from transport.wire.limits import ClientLimits
from transport.wire.messages import Ending, EndingReason, Paused, PauseReason, Resumed

MAX_NOTICE_S = 60.0  # from the announcement of an end to the end
NOTICE_SHARE = 0.25  # if that is shorter: this share of the limit

Change = Paused | Resumed | Ending


class IdleClock:
    """The presence of one client. Only `poll` pauses and resumes its session."""

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits
        self._may_idle = True
        self._hidden = False
        self._has_chunk = False
        self._opened_s = math.inf
        self._active_s = -math.inf  # when the client did something, or held a key, last
        self._paused_s = math.inf  # since when the session is paused
        self._announced: set[EndingReason] = set()
        self.paused: PauseReason | None = None

    def start(self, now_s: float, *, may_idle: bool = True, age_s: float = 0.0) -> None:
        """The session is open, and was so for `age_s` with other sockets.

        Without `may_idle` only a hidden page pauses it.
        """
        self._opened_s, self._active_s = now_s - age_s, now_s
        self._may_idle = may_idle

    def note_event(self, now_s: float, *, wakes: bool = True) -> None:
        """The client did something. With `wakes` its page counts as visible again."""
        self._active_s = now_s
        self._hidden = self._hidden and not wakes

    def note_visibility(self, now_s: float, *, hidden: bool) -> None:
        """The client's page was hidden or shown."""
        self._hidden = hidden
        if not hidden:
            self._active_s = now_s

    def note_chunk(self, now_s: float, *, busy: bool) -> None:
        """A chunk was generated. `busy`: a key was held in it, or a script is not over.

        The idle time of a new session begins with its first chunk.
        """
        if busy or not self._has_chunk:
            self._active_s = now_s
        self._has_chunk = True

    def poll(self, now_s: float, *, busy: bool) -> list[Change]:
        """Returns what has changed since the last call, in the order of the wire.

        `busy`: a key is held, or a script is not over.
        """
        if busy:
            self._active_s = now_s
        changes: list[Change] = []
        reason = self._reason(now_s)
        if reason and not self.paused:
            self.paused, self._paused_s = reason, now_s
            changes.append(Paused(reason))
        elif self.paused and not reason:
            self.paused, self._paused_s = None, math.inf
            self._announced.discard("idle")
            changes.append(Resumed())
        for ending, (ends_s, notice_s) in self._ends().items():
            if ending not in self._announced and now_s >= ends_s - notice_s:
                self._announced.add(ending)
                changes.append(Ending(ending, max(0, math.ceil(ends_s - now_s))))
        return changes

    def ended(self, now_s: float) -> EndingReason | None:
        """Why the session ends now; None if it goes on."""
        return next((one for one, (ends_s, _) in self._ends().items() if now_s >= ends_s), None)

    def wait_s(self, now_s: float, *, busy: bool) -> float:
        """Seconds until `poll` or `ended` may have news, if the client does nothing."""
        moments = [
            ends_s if ending in self._announced else ends_s - notice_s
            for ending, (ends_s, notice_s) in self._ends().items()
        ]
        if not self.paused and self._limits.idle_after_s is not None and self._may_idle:
            moments.append((now_s if busy else self._active_s) + self._limits.idle_after_s)
        return max(0.0, min(moments, default=math.inf) - now_s)

    def _reason(self, now_s: float) -> PauseReason | None:
        if self._hidden:
            return "hidden"
        idle_after_s = self._limits.idle_after_s
        if idle_after_s is None or not self._may_idle:
            return None
        return "idle" if now_s >= self._active_s + idle_after_s else None

    def _ends(self) -> dict[EndingReason, tuple[float, float]]:
        """When each limit ends the session, and how long before that it is announced."""
        ends: dict[EndingReason, tuple[float, float]] = {}
        if (limit_s := self._limits.max_session_s) is not None:
            ends["longest_session"] = self._opened_s + limit_s, _notice_s(limit_s)
        if (limit_s := self._limits.max_paused_s) is not None and self.paused:
            ends["idle"] = self._paused_s + limit_s, _notice_s(limit_s)
        return ends


def _notice_s(limit_s: float) -> float:
    return min(MAX_NOTICE_S, limit_s * NOTICE_SHARE)
