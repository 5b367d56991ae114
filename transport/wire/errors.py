"""Errors of a connection: a code, a reason, and the close code of an error that ends it."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Literal

ErrorCode = Literal[
    "malformed",
    "text_frame",
    "unknown_type",
    "unknown_kind",
    "missing_field",
    "invalid_field",
    "queue_full",
    "out_of_order",
    "too_large",
    "too_many_errors",
    "timeout",
    "refused",
    "busy",
    "unauthorized",
    "forbidden",
    "session_ended",
    "session_gone",
    "taken_over",
    "world_lost",
    "internal",
]

MAX_QUOTED_CHARS = 48
MAX_REASON_BYTES = 123  # in a close frame
RETRY_AFTER_S = 5  # of `busy`, where nobody knows when it ends


class TransportError(Exception):
    """Base of the room. The text is for the client, and quotes little of what it sent.

    Without a `close_code` the error is answered and the connection continues. An error has one
    positional argument only, so that it survives pickling between processes.
    """

    code: ErrorCode = "internal"
    close_code: int | None = None
    retry_after_s: int | None = None  # when to come back

    def __init__(
        self,
        text: str,
        *,
        code: ErrorCode | None = None,
        field: str | None = None,
        close_code: int | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(text)
        self.field = field
        self.retry_after_s = retry_after_s
        if code is not None:
            self.code = code
        if close_code is not None:
            self.close_code = close_code


class BadMessage(TransportError):
    """An invalid message. `field` is the path of the invalid field, `code` the reason."""

    code = "invalid_field"


class OutOfOrder(TransportError):
    """A valid message in the wrong state."""

    code = "out_of_order"


class TooLarge(TransportError):
    """A message over the size limit."""

    code = "too_large"
    close_code = 1009


class Busy(TransportError):
    """All worlds or sockets are taken. The client may try again later."""

    code = "busy"
    close_code = 1013


class Refused(TransportError):
    """The world refuses a request. With close code 1008 the connection ends, too."""

    code = "refused"


class SessionEnded(TransportError):
    """The session was paused, or open, for as long as it may be. It was announced."""

    code = "session_ended"
    close_code = 1000


class TakenOver(TransportError):
    """Another socket goes on with this session. No client should connect again by itself."""

    code = "taken_over"
    close_code = 1000


class WorldLost(TransportError):
    """The world of this session is gone, with its state. A new session may be opened."""

    code = "world_lost"
    close_code = 1012


class SessionGone(TransportError):
    """The token of an init opens nothing any more. Another init may follow."""

    code = "session_gone"


class WorldFailed(TransportError):
    """No world can be started, or one raised an exception, whose text the client does not get."""

    code = "internal"
    close_code = 1011

    def __init__(self, text: str = "the world failed") -> None:
        super().__init__(text)


def quote(value: object) -> str:
    """A value from a client, cut to a length that is safe to send back."""
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= MAX_QUOTED_CHARS else text[: MAX_QUOTED_CHARS - 1] + "…")


def unknown_name(name: str, known: Sequence[str], *, parent: str = "") -> BadMessage:
    """The error for a field that does not exist. It lists the known ones, and names the nearest.

    `parent` is the path of the field that holds it.
    """
    cut = name[:MAX_QUOTED_CHARS]
    nearest = "".join(f", the nearest is '{one}'" for one in get_close_matches(cut, known, n=1))
    listed = ", ".join(known)
    path = f"{parent}.{cut}" if parent else cut
    return BadMessage(f"{quote(name)} is not a field{nearest}, expected: {listed}", field=path)


def truncate_reason(text: str) -> str:
    """The reason of a close frame. A longer one would raise inside the server."""
    return text.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
