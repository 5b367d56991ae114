"""An error as the JSON answer to a request.

Tested in `tests/transport/http/test_clip.py`.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Struct
from starlette.responses import Response

from transport.wire.errors import Busy, ErrorCode, TooLarge, TransportError, WorldLost

# The statuses of codes; any other one is the request's own fault.
STATUSES = {"unauthorized": 401, "forbidden": 403, "timeout": 408, "internal": 500}


class Reason(Struct, frozen=True):
    code: ErrorCode
    content: str
    field: str | None


class Failure(Struct, frozen=True):
    """Why a request got nothing else."""

    error: Reason


def error_response(
    error: TransportError, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer with an error, whose status is that of its kind unless one is given."""
    later = error.retry_after_s
    return Response(
        msgspec.json.encode(Failure(Reason(error.code, str(error), error.field))),
        status_code=status or status_of(error),
        headers={**(headers or {}), **({} if later is None else {"retry-after": str(later)})},
        media_type="application/json",
    )


def status_of(error: TransportError) -> int:
    """The HTTP status of an error."""
    match error:
        case TooLarge():
            return 413
        case Busy() | WorldLost():
            return 503
        case _:
            return STATUSES.get(error.code, 400)
