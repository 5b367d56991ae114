"""Requests that no endpoint takes: each gets its status, and one line with the expected request."""

from difflib import get_close_matches
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from transport import paths
from transport.paths import SOCKET_PATH
from transport.wire.errors import quote

DENIAL = "websocket.http.response"  # the ASGI extension that answers a handshake with a status
PATHS = [path for name, path in vars(paths).items() if name.endswith("_PATH")]


def upgrade_route() -> Route:
    """426 for a plain GET of the socket's path."""

    async def upgrade(request: Request) -> Response:
        raise HTTPException(
            426,
            f"{SOCKET_PATH} is a WebSocket, expected a handshake: ws://HOST{SOCKET_PATH}",
            headers={"upgrade": "websocket", "connection": "upgrade"},
        )

    return Route(SOCKET_PATH, upgrade)


def no_socket_route() -> WebSocketRoute:
    """404 for a WebSocket on any other path. Starlette would answer 403."""

    async def no_socket(socket: WebSocket) -> None:
        if DENIAL in socket.scope.get("extensions", {}):
            path = quote(socket.scope["path"])
            raise HTTPException(404, f"{path} is not a WebSocket, expected {SOCKET_PATH}")
        await socket.close()

    return WebSocketRoute("/{path:path}", no_socket)


async def describe_status(connection: HTTPConnection, exc: Exception) -> Response:
    """The answer to an HTTPException: its own text, or the path or the method that it expected."""
    assert isinstance(exc, HTTPException)
    path, text, headers = connection.scope["path"], exc.detail, dict(exc.headers or {})
    if text == HTTPStatus(exc.status_code).phrase:  # raised by Starlette, without a text
        if exc.status_code == 404:
            nearest = "".join(
                f", the nearest is {one}" for one in get_close_matches(path, PATHS, 1)
            )
            text = f"there is no {quote(path)}{nearest}"
        elif exc.status_code == 405:
            headers["Allow"] = ", ".join(sorted(headers.get("Allow", "GET, HEAD").split(", ")))
            method = quote(connection.scope["method"])
            text = f"{method} is not a method of {quote(path)}, expected {headers['Allow']}"
    return PlainTextResponse(f"{text}\n", exc.status_code, headers)
