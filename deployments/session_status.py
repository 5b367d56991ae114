"""One session of a group, for operators. Tested in `tests/deployments/test_group_sessions.py`."""

from typing import Literal

from msgspec import Struct

from deployments.sessions.admission import State
from deployments.sessions.registry import SessionRecord


class SessionStatus(Struct, frozen=True, kw_only=True):
    """One session of a group, for operators."""

    session_id: str
    state: Literal["opening", "detached", State]
    width: int
    height: int
    seconds: float  # since it was admitted
    num_chunks: int
    num_bytes: int  # planned, on one rank; in host memory if it is suspended


def describe_session(record: SessionRecord, state: State, *, now: float) -> SessionStatus:
    """`state` is the admission's. One that is detached is so whether it is suspended or not."""
    held: Literal["opening", State] = state if record.opened else "opening"
    return SessionStatus(
        session_id=record.session_id,
        state=held if record.detached_at is None else "detached",
        width=record.size[0],
        height=record.size[1],
        seconds=now - record.since,
        num_chunks=record.num_chunks,
        num_bytes=record.num_bytes,
    )
