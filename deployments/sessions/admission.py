"""Which sessions a replica group admits: by their bytes, and by the group's measured speed."""

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Literal

from msgspec import Meta, Struct

Size = tuple[int, int]  # width, height
Reason = Literal["sessions", "memory", "speed"]

FULL = 0.95  # the share of real time that the active sessions may take together
NUM_MEASURED = 16  # chunks of a size whose median is its speed


class GroupLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many sessions a group serves at once, and how many clients wait for it."""

    # realtime: no session is admitted that would make the others late; shared: all become slower
    pace: Literal["realtime", "shared"] = "realtime"
    max_sessions: Annotated[int, Meta(ge=1)] | None = None  # None: as many as the memory holds
    max_waiting: Annotated[int, Meta(ge=0)] = 32  # clients in a group's line
    # A session that is paused for so long moves to host memory; None: it keeps its GPU memory
    suspend_after_s: Annotated[float, Meta(gt=0)] | None = None


class Demand(Struct, frozen=True, kw_only=True):
    """The session that a client asks for."""

    width: int
    height: int
    realtime: bool = True  # False: a clip, which may take longer than it plays
    waited_s: float = 0.0  # since the client asked first, of this group or another one
    last_group: str | None = None  # the group that has let it go: another one may have room


@dataclass(slots=True)
class Admitted:
    """One session of the group."""

    size: Size
    num_bytes: int
    realtime: bool
    state: Literal["active", "paused", "suspended"] = "active"


class Admission:
    """The group's sessions, and whether another one fits.

    A paused session keeps its bytes and frees its share of the speed. A suspended one has freed
    both.
    """

    def __init__(self, limits: GroupLimits, *, media_s: float, session_bytes: int | None) -> None:
        """`media_s` is the duration of a chunk.

        `session_bytes` is what all sessions together may take of a rank; None: unknown.
        """
        self.limits = limits
        self._media_s = media_s
        self._session_bytes = session_bytes
        self._sessions: dict[str, Admitted] = {}
        self._chunk_s: dict[Size, deque[float]] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def measure(self, size: Size, chunk_s: float) -> None:
        """Note the seconds that a group was busy with one chunk of this size."""
        self._chunk_s.setdefault(size, deque(maxlen=NUM_MEASURED)).append(chunk_s)

    def chunk_s(self, size: Size) -> float | None:
        """The median of the latest chunks of this size; None before the first."""
        measured = self._chunk_s.get(size)
        return median(measured) if measured else None

    @property
    def load(self) -> float:
        """The share of real time that the active sessions take: 1 is all of it."""
        active = (s for s in self._sessions.values() if s.state == "active" and s.realtime)
        return sum(self._share(session.size) for session in active)

    @property
    def num_bytes(self) -> int:
        """Bytes of a rank that the sessions take, without the suspended ones."""
        return sum(s.num_bytes for s in self._sessions.values() if s.state != "suspended")

    def refusal(self, size: Size, num_bytes: int, *, realtime: bool = True) -> Reason | None:
        """Why such a session does not fit now; None if it does."""
        max_sessions = self.limits.max_sessions
        if max_sessions is not None and len(self._sessions) >= max_sessions:
            return "sessions"
        if self._session_bytes is not None and self.num_bytes + num_bytes > self._session_bytes:
            return "memory"
        if self.limits.pace == "realtime" and realtime:
            load = self.load  # one session alone is served at any speed
            if load > 0 and load + self._share(size) > FULL:
                return "speed"
        return None

    def admit(self, session_id: str, size: Size, num_bytes: int, *, realtime: bool = True) -> None:
        """Add an active session that `refusal` has let in."""
        self._sessions[session_id] = Admitted(size, num_bytes, realtime)

    def move(self, session_id: str, state: Literal["active", "paused", "suspended"]) -> None:
        """Note a session's new state. An unknown session is ignored."""
        if session := self._sessions.get(session_id):
            session.state = state

    def leave(self, session_id: str) -> None:
        """Remove a session. An unknown one is ignored."""
        self._sessions.pop(session_id, None)

    def _share(self, size: Size) -> float:
        return (self.chunk_s(size) or 0.0) / self._media_s
