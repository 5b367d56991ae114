"""Access to the server: origins of pages, bearer tokens, and the limits of each token."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from http import HTTPStatus
from urllib.parse import unquote_to_bytes, urlsplit

import anyio
from anyio import CancelScope, to_thread
from starlette._utils import get_route_path
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from transport.connection.close import reject
from transport.http.error_response import error_response, status_of
from transport.observer import TOKEN_KEY, NoObserver, Observer, client_of
from transport.paths import CLIPS_PATH, HEALTHZ_PATH, SESSIONS_PATH
from transport.session_log import report_refused
from transport.token_usage import Kind, LocalUsage, Usage
from transport.tokens import Token, Tokens, unauthorized
from transport.wire.errors import Busy, Refused, TransportError, quote

SUBPROTOCOL = "bearer"  # offered before the token, and the one that is accepted
COOKIE = "lingbot_token"
RELOAD_PERIOD_S = 2.0  # between two looks at the files of tokens
DEFAULT_PORTS = {"http": 80, "https": 443}

logger = logging.getLogger(__name__)


class Permit:
    """One socket's use of a token, which ends when the token is withdrawn."""

    def __init__(self, token: Token) -> None:
        self.token = token
        self._withdrawn = False
        self._receiving: CancelScope | None = None

    def withdraw(self) -> None:
        self._withdrawn = True
        if self._receiving is not None:
            self._receiving.cancel()

    async def receive(self, receive: Receive) -> Message:
        """The next message. Raises Refused, also while it waits, once the token is withdrawn."""
        message = None
        if not self._withdrawn:
            with CancelScope() as self._receiving:
                message = await receive()
        if message is None:
            raise unauthorized("the token has been withdrawn")
        return message


class Access:
    """Decides on requests and sockets. One for all of an application."""

    def __init__(
        self,
        *,
        allowed_origins: Sequence[str] = (),
        tokens: Tokens | None = None,
        usage: Usage | None = None,
    ) -> None:
        """`tokens` is None where everybody may enter. `usage` is None for one replica alone."""
        self.allowed_origins = allowed_origins
        self.tokens = tokens
        self.usage = usage or LocalUsage()
        self._permits: set[Permit] = set()

    async def run(self) -> None:
        """Follows the files of tokens, and ends the sockets of withdrawn ones."""
        tokens = self.tokens
        while tokens is not None:
            await anyio.sleep(RELOAD_PERIOD_S)
            if await to_thread.run_sync(tokens.reload):
                for permit in self._permits:
                    if tokens.is_withdrawn(permit.token):
                        permit.withdraw()

    def check_origin(self, connection: HTTPConnection) -> None:
        """Raises Refused for a page of another origin. Tools send no origin."""
        origin = connection.headers.get("origin")
        if origin is None or is_own(origin, connection) or "*" in self.allowed_origins:
            return
        if origin not in self.allowed_origins:
            text = f"the origin {quote(origin)} is not allowed, expected one of allowed_origins"
            raise Refused(text, code="forbidden", close_code=1008)

    def authenticate(self, connection: HTTPConnection) -> Token | None:
        """The token of a request; None if none is needed. Raises Refused.

        The list of sessions asks for the operator's token itself.
        """
        if self.tokens is None:
            return None
        text = find_token(connection)
        if text is None:
            raise unauthorized(
                "a token is required: `Authorization: Bearer TOKEN`, `?token=TOKEN`, or the "
                f"WebSocket subprotocols `{SUBPROTOCOL}, TOKEN`"
            )
        return (
            None if get_route_path(connection.scope) == SESSIONS_PATH else self.tokens.verify(text)
        )

    @contextmanager
    def permit(self, token: Token) -> Iterator[Permit]:
        """A socket's permit while the context is open."""
        permit = Permit(token)
        self._permits.add(permit)
        try:
            yield permit
        finally:
            self._permits.discard(permit)


class AccessControl:
    """ASGI middleware that lets in what `access` allows, and answers the rest itself.

    Below it the name of the accepted token is `lingbot.token` in the scope, and the query has no
    token any more.
    """

    def __init__(self, app: ASGIApp, *, access: Access, observer: Observer | None = None) -> None:
        self._app = app
        self._access = access
        self._observer = observer or NoObserver()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or is_open(scope):
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        send = accept_subprotocol(connection, send)
        async with AsyncExitStack() as held:
            try:
                if scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD"):
                    self._access.check_origin(connection)
                token = self._access.authenticate(connection)
                kind = kind_of(scope)
                if token is not None and kind is not None:
                    await held.enter_async_context(self._access.usage.hold(token, kind))
            except TransportError as error:
                await refuse(connection, receive, send, error, observer=self._observer)
                return
            if token is not None:
                send = keep_token(connection, send)
                query = without_token(scope["query_string"])
                scope = dict(scope, query_string=query) | {TOKEN_KEY: token.name}
                if kind is not None:
                    logger.info("%s: a %s begins", token.name, kind)
                if scope["type"] == "websocket":
                    permit = held.enter_context(self._access.permit(token))
                    receive = partial(permit.receive, receive)
            await self._app(scope, receive, send)


def is_open(scope: Scope) -> bool:
    """True for the path that needs no token: an orchestrator's probe has none."""
    return scope["type"] == "http" and get_route_path(scope) == HEALTHZ_PATH


def kind_of(scope: Scope) -> Kind | None:
    """The limit that a request counts for; None for a request that costs nothing."""
    if scope["type"] == "websocket":
        return "session"
    is_clip = scope["method"] == "POST" and get_route_path(scope) == CLIPS_PATH
    return "clip" if is_clip else None


def find_token(connection: HTTPConnection) -> str | None:
    """The text of a token from the first place that has one; None if no place has.

    The cookie counts for the page's own requests alone: a browser also sends it for pages of other
    ports and of sibling domains.
    """
    if (header := connection.headers.get("authorization")) is not None:
        scheme, _, text = header.partition(" ")
        return text.strip() if scheme.lower() == "bearer" else ""
    if (query := connection.query_params.get("token")) is not None:
        return query
    offered = connection.scope.get("subprotocols", [])
    if len(offered) == 2 and offered[0] == SUBPROTOCOL:
        return str(offered[1])
    origin = connection.headers.get("origin")
    if origin is None or is_own(origin, connection):
        return connection.cookies.get(COOKIE)
    return None


def without_token(query: bytes) -> bytes:
    """The query without its tokens, which nothing behind may take for a parameter, or log."""
    pairs = query.split(b"&")
    return b"&".join(pair for pair in pairs if unquote_to_bytes(pair.split(b"=")[0]) != b"token")


def is_own(origin: str, connection: HTTPConnection) -> bool:
    """True for a page that came from the host that this request names.

    The scheme is not compared: TLS may end in front of the server.
    """
    try:
        page = urlsplit(origin)
        default = DEFAULT_PORTS.get(page.scheme)
        own = urlsplit(f"//{connection.headers.get('host', '')}")
        return default is not None and (page.hostname, page.port or default) == (
            own.hostname,
            own.port or default,
        )
    except ValueError:  # a port that is none
        return False


def accept_subprotocol(connection: HTTPConnection, send: Send) -> Send:
    """Name the subprotocol of a token when a socket is accepted, or browsers would close it."""
    if SUBPROTOCOL not in connection.scope.get("subprotocols", []):
        return send

    async def send_with_subprotocol(message: Message) -> None:
        if message["type"] == "websocket.accept":
            message["subprotocol"] = SUBPROTOCOL
        await send(message)

    return send_with_subprotocol


def keep_token(connection: HTTPConnection, send: Send) -> Send:
    """Answer the page that has a token in its address with a cookie for its other requests."""
    scope, text = connection.scope, connection.query_params.get("token")
    was_used = text is not None and "authorization" not in connection.headers
    if not was_used or scope["type"] != "http" or get_route_path(scope) not in ("", "/"):
        return send
    forwarded = connection.headers.get("x-forwarded-proto", scope["scheme"])
    path = f"{scope.get('root_path', '').rstrip('/')}/"
    cookie = f"{COOKIE}={text}; Path={path}; HttpOnly; SameSite=Lax"

    async def send_with_cookie(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["set-cookie"] = cookie + "; Secure" * (forwarded == "https")
            headers["cache-control"] = "no-store"
            headers["referrer-policy"] = "no-referrer"
        await send(message)

    return send_with_cookie


async def refuse(
    connection: HTTPConnection,
    receive: Receive,
    send: Send,
    error: TransportError,
    *,
    observer: Observer,
) -> None:
    """Answer with the error: a socket in its own messages, a request with a status and JSON."""
    scope = connection.scope
    if scope["type"] == "websocket":
        client = client_of(connection.headers, kind="stream")
        await reject(WebSocket(scope, receive, send), error, client=client, observer=observer)
        return
    # 503 is the world's; here it is the client that has asked too often.
    status = HTTPStatus.TOO_MANY_REQUESTS if isinstance(error, Busy) else status_of(error)
    if kind_of(scope) == "clip":
        client = client_of(connection.headers, kind="clip")
        session = observer.connected(client, anyio.current_time())
        report_refused(client, session, error, code=status)
    else:
        logger.info("refused %s %s: %s", scope["method"], quote(scope["path"]), error)
    headers = {}
    if status == HTTPStatus.UNAUTHORIZED:
        presented = ', error="invalid_token"' if find_token(connection) is not None else ""
        headers["www-authenticate"] = f'Bearer realm="lingbot"{presented}'
    await error_response(error, status=status, headers=headers)(scope, receive, send)
