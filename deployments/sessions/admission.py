"""Which sessions a replica group admits: by their bytes, and by the group's measured speed."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Literal

from msgspec import Meta, Struct

Size = tuple[int, int]  # width, height
Reason = Literal["sessions", "memory", "speed"]
State = Literal["active", "paused", "suspended"]

FULL = 0.95  # the share of real time that the sessions may take together
NUM_MEASURED = 16  # chunks of a size whose median is its speed


class GroupLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many sessions a group serves at once, and how many clients wait for it."""

    # realtime: no session is admitted that would make the others late; shared: all become slower
    pace: Literal["realtime", "shared"] = "realtime"
    max_sessions: Annotated[int, Meta(ge=1)] | None = None  # None: as many as the memory holds
    max_waiting: Annotated[int, Meta(ge=0)] = 32  # clients in a group's line
    # The part of a paused session's speed that stays reserved for its return. 0: others get all of
    # it, and everyone is slower while more sessions are active than the group keeps up with.
    paused_share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    # A session that is paused for so long moves to host memory; None: it keeps its GPU memory
    suspend_after_s: Annotated[float, Meta(gt=0)] | None = None
    # A rank's host memory for suspended sessions; None: as much as its sessions may take of the GPU
    suspended_bytes: Annotated[int, Meta(ge=0)] | None = None


class Demand(Struct, frozen=True, kw_only=True):
    """The session that a client asks for."""

    width: int
    height: int
    window: int | None = None  # latent frames of the KV window; None: the preset's
    num_steps: int | None = None  # denoising steps of a chunk; None: the preset's
    realtime: bool = True  # False: a clip, which may take longer than it plays
    waited_s: float = 0.0  # since the client asked first, of this group or another one
    last_group: str | None = None  # the group that has let it go: another one may have room
    place: str | None = None  # the one that `AskAgain` named; other groups ignore it
    group: str | None = None  # the group that is asked first
    age_s: float = 0.0  # of a session that was open before, elsewhere
    resumable: bool = False  # the session outlives its lease for the grace
    resume: tuple[str, str] | None = None  # id and secret of a session to attach to
    # A session that was admitted before, here or elsewhere: it goes in front of the line, and is
    # not refused for the group's speed.
    returning: bool = False
    gives_way: bool = False  # its group died while it waited: the worlds that were there go first

    @property
    def size(self) -> Size:
        return self.width, self.height


@dataclass(slots=True)
class Admitted:
    """One session of the group."""

    demand: Demand
    num_bytes: int
    state: State = "active"
    paused_at: float = 0.0  # if it is paused
    detached: bool = False  # no lease holds it


class Admission:
    """The group's sessions, and whether another one fits.

    A paused session keeps its bytes, and frees its speed but for `paused_share`. A detached one
    frees that, too. A suspended one frees its bytes and its speed. An admitted session may always
    become active again, once its bytes fit: speed is decided at its admission alone.
    """

    def __init__(
        self, limits: GroupLimits, *, media_s: float, session_bytes: int | None, num_steps: int = 4
    ) -> None:
        """`media_s` is the duration of a chunk.

        `session_bytes` is what all sessions together may take of a rank; None: unknown.
        `num_steps` are the denoising steps of a session that asks for no other number. `limits` may
        be replaced at any time.
        """
        self.limits = limits
        self._media_s = media_s
        self._session_bytes = session_bytes
        self._num_steps = num_steps
        self._sessions: dict[str, Admitted] = {}
        self._measured: dict[Size, deque[tuple[float, float]]] = {}  # denoising, decoding
        self._chunk_s: dict[tuple[Size, int], float] = {}  # by steps; those that were asked for

    def __len__(self) -> int:
        return len(self._sessions)

    def state(self, session_id: str) -> State | None:
        """A session's state; None for an unknown one."""
        session = self._sessions.get(session_id)
        return None if session is None else session.state

    def measure(self, size: Size, denoising_s: float, decoding_s: float = 0.0) -> None:
        """Note the seconds that a group was busy with one chunk of this size and default steps.

        The longer of both counts: a chunk is decoded while the next one is denoised.
        """
        measured = self._measured.setdefault(size, deque(maxlen=NUM_MEASURED))
        measured.append((denoising_s, decoding_s))
        self._chunk_s.clear()

    def shares(self) -> dict[Size, float]:
        """The share of real time that one active session takes, by measured size."""
        return {size: self._share(Demand(width=size[0], height=size[1])) for size in self._measured}

    @property
    def load(self) -> float:
        """The share of real time that the active sessions take: 1 is all of it."""
        return self._load(paused_share=0.0)

    @property
    def num_bytes(self) -> int:
        """Bytes of a rank that the sessions take, without the suspended ones."""
        return sum(s.num_bytes for s in self._sessions.values() if s.state != "suspended")

    @property
    def suspended_bytes(self) -> int:
        """Bytes of a rank's host memory that the suspended sessions take."""
        return sum(s.num_bytes for s in self._sessions.values() if s.state == "suspended")

    def refusal(self, demand: Demand, num_bytes: int) -> Reason | None:
        """Why a session of so many bytes does not fit now; None if it does."""
        max_sessions = self.limits.max_sessions
        if max_sessions is not None and len(self._sessions) >= max_sessions:
            return "sessions"
        if not self._fits(num_bytes):
            return "memory"
        if self.limits.pace == "realtime" and demand.realtime and not demand.returning:
            load = self._load(paused_share=self.limits.paused_share)
            if load > 0 and load + self._share(demand) > FULL:  # one alone is served at any speed
                return "speed"
        return None

    def to_evict(self, demand: Demand, num_bytes: int, candidates: Iterable[str]) -> list[str]:
        """The first candidates, without whom such a session fits. Empty if it still does not."""
        before, chosen = self._sessions, []
        self._sessions = dict(before)
        try:
            for name in candidates:
                reason = self.refusal(demand, num_bytes)
                if reason not in ("memory", "sessions"):
                    break
                if reason == "memory" and self.state(name) == "suspended":
                    continue  # it frees none
                del self._sessions[name]
                chosen.append(name)
            is_enough = self.refusal(demand, num_bytes) is None
        finally:
            self._sessions = before
        return chosen if is_enough else []

    def admit(self, session_id: str, demand: Demand, num_bytes: int) -> None:
        """Add an active session that `refusal` has let in."""
        self._sessions[session_id] = Admitted(demand, num_bytes)

    def move(self, session_id: str, state: State, now: float) -> None:
        """Note a session's new state. An unknown session is ignored.

        It is "suspended" once its memory has been freed. It leaves that state only after `room_for`
        has let it in. `now` is in seconds of the clock of `to_suspend`.
        """
        session = self._sessions.get(session_id)
        if session is None or session.state == state:
            return
        session.state = state
        if state == "paused":
            session.paused_at = now

    def detach(self, session_id: str, now: float) -> None:
        """Note that no lease holds the session. It pauses. An unknown session is ignored."""
        if session := self._sessions.get(session_id):
            session.detached = True
            if session.state == "active":
                self.move(session_id, "paused", now)

    def attach(self, session_id: str) -> None:
        """Note that a lease holds the session again. An unknown session is ignored."""
        if session := self._sessions.get(session_id):
            session.detached = False

    def leave(self, session_id: str) -> None:
        """Remove a session. An unknown one is ignored."""
        self._sessions.pop(session_id, None)

    def to_suspend(self, now: float) -> list[str]:
        """The sessions that were paused for `suspend_after_s`, the longest first.

        No more than host memory has room for.
        """
        after_s = self.limits.suspend_after_s
        if after_s is None:
            return []
        paused = [name for name, s in self._paused() if now - s.paused_at >= after_s]
        return list(self._with_host_room(paused))

    def room_for(self, session_id: str) -> list[str] | None:
        """The paused sessions to suspend so that this suspended one fits, the longest paused first.

        Empty if it fits as it is, or is not suspended. None if it must wait: in front of the line,
        because it was admitted before everyone there. Raises KeyError for an unknown session.
        """
        session = self._sessions[session_id]
        if session.state != "suspended":
            return []
        missing = self._missing(session.num_bytes)
        chosen: list[str] = []
        # Its own bytes leave host memory only after the others' have arrived there.
        for name in self._with_host_room([name for name, _ in self._paused()]):
            if missing <= 0:
                break
            chosen.append(name)
            missing -= self._sessions[name].num_bytes
        return chosen if missing <= 0 else None

    def _paused(self) -> list[tuple[str, Admitted]]:
        paused = [item for item in self._sessions.items() if item[1].state == "paused"]
        return sorted(paused, key=lambda item: item[1].paused_at)

    def _with_host_room(self, names: Iterable[str]) -> Iterable[str]:
        """The first of these sessions that host memory holds together."""
        limit = self.limits.suspended_bytes
        if limit is None:
            limit = self._session_bytes
        total = self.suspended_bytes
        for name in names:
            total += self._sessions[name].num_bytes
            if limit is not None and total > limit:
                return
            yield name

    def _fits(self, num_bytes: int) -> bool:
        return self._missing(num_bytes) <= 0

    def _missing(self, num_bytes: int) -> int:
        """Bytes that must be freed before a session with so many fits."""
        if self._session_bytes is None:
            return 0
        return self.num_bytes + num_bytes - self._session_bytes

    def _load(self, *, paused_share: float) -> float:
        parts = {"active": 1.0, "paused": paused_share, "suspended": 0.0}
        sessions = (s for s in self._sessions.values() if s.demand.realtime and not s.detached)
        return sum(parts[session.state] * self._share(session.demand) for session in sessions)

    def _share(self, demand: Demand) -> float:
        """The share of real time that one such active session takes; 0 before its size is measured.

        Denoising takes as long as it has passes: one for each step, and one that writes the cache.
        """
        size, num_steps = demand.size, demand.num_steps or self._num_steps
        if size not in self._measured:
            return 0.0
        if (size, num_steps) not in self._chunk_s:
            more = (num_steps + 1) / (self._num_steps + 1)
            busy_s = [max(more * denoising_s, other) for denoising_s, other in self._measured[size]]
            self._chunk_s[size, num_steps] = median(busy_s)
        return self._chunk_s[size, num_steps] / self._media_s
