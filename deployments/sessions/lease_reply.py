"""Answers of a replica group to a client that asks for a lease.

Tested in `tests/deployments/test_group_sessions.py`.
"""

from typing import Literal

from msgspec import Struct

from deployments.sessions.registry import EndReason


class Waiting(Struct, frozen=True):
    """The client waits in the group's line."""

    position: int  # from 1
    estimate_s: int | None = None  # until its turn; None: unknown


class AskAgain(Struct, frozen=True):
    """The client should ask again: another group may have room by now."""

    group_id: str  # the group that answers this
    place: str = ""  # the client's, kept by this group for `Demand.place` of its next call


class Full(Struct, frozen=True):
    """The group's line is full."""

    reason: str  # in words for the client
    retry_after_s: int


class NotHere(Struct, frozen=True):
    """The group has no such session to attach to, or the secret is wrong."""

    group_id: str  # the group that answers this


class Leased(Struct, frozen=True, kw_only=True):
    """The client has a session. The lease lasts until the call ends."""

    session_id: str
    epoch: int  # the number of the session's leases, from 1; calls of an older one are refused
    secret: str  # with the id, it lets a later demand attach to the session
    attached: bool  # to a session that had another lease before
    age_s: float = 0.0  # since the session was reserved first, in any group


class Ended(Struct, frozen=True):
    """The lease has ended, but not by its holder. No reply follows."""

    reason: "LeaseEnd"


LeaseEnd = (
    EndReason  # the session has ended, too
    | Literal[
        "taken_over",  # by another socket: the session has another lease, or has moved to one
        "detached",  # the holder did not touch it for too long: it waits for another lease
    ]
)
