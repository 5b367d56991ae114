"""`GET /v1/sessions`: all sessions of all replica groups, for operators."""

import hmac
import logging
from collections.abc import Awaitable, Callable

import anyio
import msgspec
from anyio import to_thread
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from transport.http.error_response import error_response
from transport.paths import SESSIONS_PATH
from transport.tokens import TokenFileError, read_operator_token
from transport.wire.errors import ErrorCode, Refused

COLLECT_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


class SessionInfo(Struct, frozen=True, kw_only=True):
    """One session. Fields that its transport replica has not reported yet are null."""

    id: str
    group: str
    state: str  # opening, active, paused, suspended or detached
    width: int
    height: int
    age_s: float  # since it was admitted
    chunks: int  # that were generated
    memory_bytes: int  # of each rank, as planned
    transport: str | None = None
    kind: str | None = None  # stream or clip
    token: str | None = None  # the name of its token; null also if it has none
    trace_id: str | None = None
    sent_chunks: int | None = None
    sent_frames: int | None = None
    sent_bytes: int | None = None


class SessionList(Struct, frozen=True, kw_only=True):
    """The sessions of all groups that answered in time."""

    complete: bool  # every group answered
    missing_groups: list[str]  # those that did not
    sessions: list[SessionInfo]


ListSessions = Callable[[], Awaitable[SessionList]]


def sessions_route(list_sessions: ListSessions | None, *, token_file: str | None) -> Route:
    """Answers requests that carry the token in `token_file`, which is read for each.

    None: nobody may read the list. `list_sessions` is None where no cluster has sessions.
    """

    async def sessions(request: Request) -> Response:
        if refused := await _refuse(request.headers.get("authorization", ""), token_file):
            return refused
        try:
            with anyio.fail_after(COLLECT_TIMEOUT_S):
                found = await list_sessions() if list_sessions is not None else _nothing()
        except TimeoutError:
            text = f"the cluster did not answer within {COLLECT_TIMEOUT_S:g} s"
            return _error(503, "timeout", text)
        return Response(msgspec.json.encode(found), media_type="application/json")

    return Route(SESSIONS_PATH, sessions)


async def _refuse(header: str, token_file: str | None) -> Response | None:
    """The answer to a request whose header does not have the operator's token."""
    if token_file is None:
        text = "nobody may read this, expected operator_token_file in the server's config"
        return _error(403, "forbidden", text)
    try:
        token = await to_thread.run_sync(read_operator_token, token_file)
    except TokenFileError as exc:
        logger.error("operator_token_file: %s", exc)
        return _error(403, "forbidden", "operator_token_file cannot be used; see the log")
    scheme, _, given = header.partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.encode()):
        text = "expected `Authorization: Bearer TOKEN`, with the operator's token"
        return _error(401, "unauthorized", text)
    return None


def _nothing() -> SessionList:
    return SessionList(complete=True, missing_groups=[], sessions=[])


def _error(status: int, code: ErrorCode, text: str) -> Response:
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return error_response(Refused(text, code=code), status=status, headers=headers)
