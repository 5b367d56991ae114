"""What can go wrong in a conversation: a code, a reason, and how the socket ends, if it does."""

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
    "world_lost",
    "internal",
]

MAX_QUOTED_CHARS = 48
MAX_REASON_BYTES = 123  # all the room that a close frame has


class TransportError(Exception):
    """Base of the room. Its text is written for the client and never quotes much of what it sent.

    `close_code` None means that the client is answered and the conversation goes on. One
    positional argument only, so that an error survives pickling between processes.
    """

    code: ErrorCode = "internal"
    close_code: int | None = None

    def __init__(
        self,
        text: str,
        *,
        code: ErrorCode | None = None,
        field: str | None = None,
        close_code: int | None = None,
    ) -> None:
        super().__init__(text)
        self.field = field
        if code is not None:
            self.code = code
        if close_code is not None:
            self.close_code = close_code


class BadMessage(TransportError):
    """A message that cannot be used; `field` says where, `code` why."""

    code = "invalid_field"


class OutOfOrder(TransportError):
    """A good message at the wrong moment."""

    code = "out_of_order"


class TooLarge(TransportError):
    """A message over the limit."""

    code = "too_large"
    close_code = 1009


class Busy(TransportError):
    """Every place is taken. The client may come back later."""

    code = "busy"
    close_code = 1013


class Refused(TransportError):
    """The world will not play this. Answered; with `close_code` 1008 it also ends the socket."""

    code = "refused"


class WorldLost(TransportError):
    """The world of this session is gone, with its state. A new session may be opened."""

    code = "world_lost"
    close_code = 1012


class WorldFailed(TransportError):
    """The world's own code raised something unexpected. The client sees no more than this text."""

    code = "internal"
    close_code = 1011

    def __init__(self, text: str = "the world failed") -> None:
        super().__init__(text)


def quote(value: object) -> str:
    """What a client sent, cut to a length that is safe to send back."""
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= MAX_QUOTED_CHARS else text[: MAX_QUOTED_CHARS - 1] + "…")


def truncate_reason(text: str) -> str:
    """The reason of a close frame; a longer one raises inside the server."""
    return text.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
