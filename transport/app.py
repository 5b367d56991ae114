"""The ASGI application: the socket, the HTTP endpoints, the API documents and the page."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from transport.access import Access, AccessControl
from transport.connection.close import reject
from transport.connection.connection import Connection
from transport.event_loop_lag import EventLoopLag
from transport.freed_memory import give_back
from transport.http.clip import clip_route
from transport.http.health import health_routes
from transport.http.models import model_routes
from transport.http.sessions import ListSessions, sessions_route
from transport.http.unrouted import describe_status, no_socket_route, upgrade_route
from transport.http.world_info import opening_route, world_route
from transport.image_fetcher import ImageFetcher
from transport.observer import TOKEN_KEY, NoObserver, Observer, client_of
from transport.paths import ASYNCAPI_PATH, OPENAPI_PATH, SOCKET_PATH
from transport.wire.errors import RETRY_AFTER_S, Busy
from transport.wire.limits import ClientLimits
from transport.wire.world import World
from transport.worker_limits import CapacityLimits

FOLDER = Path(__file__).parent
WEB = FOLDER / "web"
SPEC = FOLDER / "spec"


def build_app(
    world: World,
    *,
    limits: Callable[[], ClientLimits] = ClientLimits,
    access: Access | None = None,
    fetcher: ImageFetcher | None = None,
    observer: Observer | None = None,
    list_sessions: ListSessions | None = None,
    operator_token_file: str | None = None,
) -> Starlette:
    """Serves `world`. `limits` gives the bounds of a new socket or request; they may change.

    `access` decides who may enter; None: everybody, but no page of another origin. `fetcher`
    fetches first frames; None: no URL is fetched. `observer` follows every client.
    `list_sessions` and `operator_token_file` are for `GET /v1/sessions`.
    """
    access = access or Access()
    observer = observer or NoObserver()
    capacity = CapacityLimits()
    fetcher = fetcher or ImageFetcher()
    lag = EventLoopLag(on_sample=observer.lagged)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=access.allowed_origins,
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["*"],
        expose_headers=["x-seed", "x-warning", "retry-after"],
    )
    return Starlette(
        lifespan=run_beside(lag.run, give_back, access.run),
        exception_handlers={HTTPException: describe_status},
        middleware=[cors, Middleware(AccessControl, access=access, observer=observer)],
        routes=[
            socket_route(
                world, limits=limits, capacity=capacity, fetcher=fetcher, observer=observer
            ),
            no_socket_route(),
            upgrade_route(),
            clip_route(world, limits=limits, capacity=capacity, fetcher=fetcher, observer=observer),
            world_route(world),
            opening_route(world),
            *model_routes(world.info),
            *health_routes(world, lag),
            sessions_route(list_sessions, token_file=operator_token_file),
            _file_route(ASYNCAPI_PATH, SPEC / "asyncapi.json"),
            _file_route(OPENAPI_PATH, SPEC / "openapi.json"),
            _file_route("/", WEB / "index.html"),
            Mount("/static", StaticFiles(directory=WEB)),
        ],
    )


def run_beside(
    *tasks: Callable[[], Coroutine[Any, Any, None]],
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """A lifespan of an application beside which these tasks run."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            for task in tasks:
                group.start_soon(task)
            yield
            group.cancel_scope.cancel()

    return lifespan


def socket_route(
    world: World,
    *,
    limits: Callable[[], ClientLimits],
    capacity: CapacityLimits,
    fetcher: ImageFetcher,
    observer: Observer,
) -> WebSocketRoute:
    """At most `max_sockets` sockets are open at once; another one is closed as `busy`."""
    num_sockets = 0

    async def realtime(socket: WebSocket) -> None:
        nonlocal num_sockets
        own_limits = limits()
        client = client_of(socket.headers, kind="stream", token=socket.scope.get(TOKEN_KEY))
        if num_sockets >= own_limits.max_sockets:
            text = f"all {own_limits.max_sockets} sockets are taken"
            error = Busy(text, retry_after_s=RETRY_AFTER_S)
            await reject(socket, error, client=client, observer=observer)
            return
        num_sockets += 1
        try:
            await Connection(
                socket,
                world,
                limits=own_limits,
                capacity=capacity,
                fetcher=fetcher,
                client=client,
                observer=observer,
            ).run()
        finally:
            num_sockets -= 1

    return WebSocketRoute(SOCKET_PATH, realtime)


def _file_route(path: str, file: Path) -> Route:
    async def serve_file(request: Request) -> FileResponse:
        return FileResponse(file)

    return Route(path, serve_file)
