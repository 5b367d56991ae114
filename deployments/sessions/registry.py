"""The registry of a replica group's sessions: their leases, from reservation to end."""

import hmac
import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

EndReason = Literal[
    "closed",  # by its transport, after its world was open
    "client_left",  # before that
    "refused",  # by the engine: a field of the init
    "failed",  # the engine raised
    "expired",  # its transport did not touch it for too long
    "not_resumed",  # it had no lease for too long
    "moved",  # its world goes on in another group
    "evicted",  # it had no lease, and a client waited for its memory
]

MAX_MOVED = 1024  # sessions whose worlds went on elsewhere, and that are remembered


@dataclass(slots=True)
class SessionRecord:
    """One session of the group. It is detached while no lease holds it."""

    session_id: str
    touched: float  # when a client last used it
    since: float  # when it was reserved first, in any group
    size: tuple[int, int] = (0, 0)  # width, height
    num_bytes: int = 0  # of a rank's memory, by the plan
    realtime: bool = True  # False: a clip
    resumable: bool = False  # it may be detached
    secret: str = ""  # lets another lease attach to it
    epoch: int = 1  # the number of its leases so far
    detached_at: float | None = None  # None: a lease holds it
    opened: bool = False  # its world exists
    num_chunks: int = 0  # denoised
    fault: Literal["refused", "failed"] | None = None  # why it will end
    has_moved: bool = False  # its holder goes on with its world elsewhere

    @property
    def end_reason(self) -> EndReason:
        """The reason of an end that its lease asked for."""
        if self.fault is None and self.has_moved:
            return "moved"
        return self.fault or ("closed" if self.opened else "client_left")


class SessionRegistry:
    """Decides which sessions live and who holds them. The caller frees those that ended.

    Every `now` is in seconds, of one monotonic clock.
    """

    def __init__(self, *, ttl_s: float, grace_s: float = 0.0) -> None:
        """A lease ends when its session has not been touched for more than `ttl_s` seconds.

        A resumable session lives on for `grace_s` without a lease; 0: no session is resumable.
        """
        self.ttl_s = ttl_s
        self.grace_s = grace_s
        self._records: dict[str, SessionRecord] = {}
        self.ends: Counter[EndReason] = Counter()
        # Leases that were not touched for too long. A resumable session does not end by that, and
        # is in `ends` by what ends it later.
        self.num_expired = 0
        self._moved: deque[str] = deque(maxlen=MAX_MOVED)

    def __iter__(self) -> Iterator[SessionRecord]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def get(self, session_id: str) -> SessionRecord | None:
        """The record of a live session, or None."""
        return self._records.get(session_id)

    def find(self, session_id: str, secret: str) -> SessionRecord | None:
        """The record of a live session whose world exists, for one who knows its secret."""
        record = self._records.get(session_id)
        if record is None or not (record.secret and record.opened):
            return None
        # In constant time: nobody can guess the secret letter by letter.
        is_known = hmac.compare_digest(record.secret.encode(), secret.encode())
        return record if is_known else None

    def is_held(self, session_id: str, epoch: int) -> bool:
        """True while the lease of this number holds the session."""
        record = self._records.get(session_id)
        return record is not None and record.epoch == epoch and record.detached_at is None

    def reserve(
        self,
        session_id: str,
        now: float,
        *,
        size: tuple[int, int] = (0, 0),
        num_bytes: int = 0,
        realtime: bool = True,
        resumable: bool = False,
        secret: str = "",
        age_s: float = 0.0,
    ) -> SessionRecord:
        """Add a session whose world is not open yet. It expires like an open one.

        `age_s` is the time that it was open elsewhere before.
        """
        record = self._records[session_id] = SessionRecord(
            session_id,
            touched=now,
            since=now - age_s,
            size=size,
            num_bytes=num_bytes,
            realtime=realtime,
            resumable=resumable and self.grace_s > 0,
            secret=secret,
        )
        return record

    def attach(self, session_id: str, secret: str, now: float) -> SessionRecord | None:
        """Give the session to a new lease; an older one no longer holds it.

        None if there is no such session, or if its world has failed.
        """
        record = self.find(session_id, secret)
        if record is None or not record.resumable or record.fault is not None:
            return None
        record.epoch += 1
        record.detached_at, record.touched = None, now
        return record

    def withdraw(self, session_id: str, secret: str) -> SessionRecord | None:
        """Take the session from its lease and from all later ones. None as in `find`."""
        record = self.find(session_id, secret)
        if record is not None:
            record.secret, record.epoch = "", record.epoch + 1
            record.detached_at = math.inf  # it is not forgotten while it is handed over
        return record

    def give_back(self, session_id: str, secret: str, now: float) -> None:
        """Undo `withdraw`: the session may be resumed. An unknown one is ignored."""
        record = self._records.get(session_id)
        if record is not None:
            record.secret, record.detached_at = secret, now

    def detach(self, session_id: str, now: float) -> bool:
        """Take the session from its lease. False if it cannot live without one, and must end."""
        record = self._records.get(session_id)
        if record is None or not (record.resumable and record.opened):
            return False
        record.detached_at = now
        return True

    def mark_opened(self, session_id: str, now: float) -> bool:
        """Note that the session's world is open. False if the session has ended meanwhile."""
        record = self._records.get(session_id)
        if record is None:
            return False
        record.opened, record.fault, record.touched = True, None, now
        return True

    def is_taken_over(self, session_id: str, epoch: int) -> bool:
        """True if the session has a later lease than this one, or its world went on elsewhere.

        Those whose worlds went on elsewhere are forgotten after `MAX_MOVED` others.
        """
        record = self._records.get(session_id)
        return session_id in self._moved if record is None else record.epoch > epoch

    def touch(self, session_id: str, now: float) -> None:
        """Restart the session's idle time. An unknown session is ignored."""
        if record := self._records.get(session_id):
            record.touched = now

    def end(self, session_id: str, reason: EndReason) -> SessionRecord | None:
        """Remove and return the session's record; None if it is unknown. `ends` counts it."""
        record = self._records.pop(session_id, None)
        if record is not None:
            self.ends[reason] += 1
            if reason == "moved":
                self._moved.append(session_id)
        return record

    def idle(self, now: float) -> list[SessionRecord]:
        """The sessions whose lease has not touched them for more than `ttl_s`."""
        held = (record for record in self if record.detached_at is None)
        return [record for record in held if now - record.touched > self.ttl_s]

    def describe_end(self, reason: EndReason) -> str:
        """The reason in words for the log."""
        match reason:
            case "expired":
                return f"idle for over {self.ttl_s:g} s"
            case "not_resumed":
                return f"not resumed within {self.grace_s:g} s"
        return reason

    def detached(self) -> list[str]:
        """The sessions that wait for another lease, the longest first."""
        waiting = [
            (record.detached_at, record.session_id)
            for record in self
            if record.detached_at is not None and record.detached_at < math.inf
        ]
        return [session_id for _, session_id in sorted(waiting)]

    def forgotten(self, now: float) -> list[SessionRecord]:
        """The sessions that had no lease for more than `grace_s`."""
        return [
            record
            for record in self
            if record.detached_at is not None and now - record.detached_at > self.grace_s
        ]
