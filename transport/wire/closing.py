"""Errors on the wire, and the end of a connection.

Tested in `tests/transport/wire/test_protocol.py`.
"""

from msgspec import Struct

from transport.wire.errors import TransportError, truncate_reason
from transport.wire.messages import Error, Reconnect, Unit, encode_message


class Close(Struct, frozen=True):
    """The end of a connection: a last unit, then a close frame."""

    unit: Unit
    code: int
    reason: str


def build_close(code: int, reason: str, *, last: TransportError | Reconnect | None = None) -> Close:
    """The last message, if there is one, and a close frame with a reason that fits into it."""
    message = error_message(last) if isinstance(last, TransportError) else last
    unit: Unit = [] if message is None else [encode_message(message)]
    return Close(unit, code, truncate_reason(reason))


def error_message(error: TransportError, *, event_id: int | None = None) -> Error:
    """The message of an error. `event_id` is that of the event that it answers."""
    return Error(
        content=str(error),
        code=error.code,
        field=error.field,
        event_id=event_id,
        retry_after_s=error.retry_after_s,
    )
