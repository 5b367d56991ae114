"""Answers of a replica group to a client that asks for a lease, before the lease itself.

Tested in `tests/deployments/test_group_sessions.py`.
"""

from msgspec import Struct


class Waiting(Struct, frozen=True):
    """The client waits in the group's line."""

    position: int  # from 1
    estimate_s: int | None = None  # until its turn; None: unknown


class AskAgain(Struct, frozen=True):
    """The client has left the line, and may ask again: another group may have room by now."""

    group_id: str  # the group that answers this


class Full(Struct, frozen=True):
    """The group's line is full."""

    reason: str  # in words for the client
    retry_after_s: int
