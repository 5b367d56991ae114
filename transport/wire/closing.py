"""The end of a connection on the wire.

Tested in `tests/transport/wire/test_protocol.py`.
"""

from msgspec import Struct

from transport.wire.errors import TransportError, truncate_reason
from transport.wire.messages import Unit, encode_message, error_message


class Close(Struct, frozen=True):
    """The end of a connection: a last unit, then a close frame."""

    unit: Unit
    code: int
    reason: str


def build_close(code: int, reason: str, *, error: TransportError | None = None) -> Close:
    """The error, if there is one, and a close frame with a reason that fits into it."""
    unit: Unit = [encode_message(error_message(error))] if error is not None else []
    return Close(unit, code, truncate_reason(reason))
