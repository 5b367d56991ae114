"""The routes: the socket, clips, health, what is served, and the page."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import anyio
import msgspec
from anyio import to_thread
from msgspec import Struct
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from transport.connection.close import reject
from transport.connection.connection import Connection
from transport.event_loop_lag import EventLoopLag
from transport.http.clip import clip
from transport.spec.asyncapi import describe_wire
from transport.spec.openapi import describe_http
from transport.wire.controls import KEYS
from transport.wire.errors import Busy
from transport.wire.limits import ClientLimits
from transport.wire.messages import Format
from transport.wire.world import World, WorldInfo
from transport.worker_limits import CapacityLimits

WEB = Path(__file__).parent / "web"
SOCKET_PATH = "/v1/realtime_video/generate"


class OpeningLink(Struct, frozen=True):
    name: str
    prompt: str
    url: str


class WorldDescription(Struct, frozen=True, kw_only=True):
    """The body of `GET /v1/world`."""

    preset: str
    sizes: tuple[tuple[int, int], ...]
    size_multiple: int
    max_pixels: int
    fps: int
    chunk_latent_frames: int
    first_chunk_frames: int
    chunk_frames: int
    max_window: int
    max_steps: int
    keys: str
    formats: list[str]
    openings: list[OpeningLink]


def build_app(world: World, *, limits: ClientLimits | None = None) -> Starlette:
    """The whole conversation with `world`, as one ASGI application."""
    bounds = limits or ClientLimits()
    capacity = CapacityLimits()
    lag = EventLoopLag()

    async def clips(request: Request) -> Response:
        return await clip(request, world, limits=bounds, capacity=capacity)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lag.run)
            yield
            tasks.cancel_scope.cancel()

    return Starlette(
        lifespan=lifespan,
        routes=[
            WebSocketRoute(SOCKET_PATH, _realtime(world, limits=bounds, capacity=capacity)),
            Route("/v1/clips", clips, methods=["POST"]),
            *_about(world, lag),
            Mount("/static", StaticFiles(directory=WEB)),
        ],
    )


def _realtime(
    world: World, *, limits: ClientLimits, capacity: CapacityLimits
) -> Callable[[WebSocket], Awaitable[None]]:
    """The endpoint of the sockets: so many at once and no more."""
    num_sockets = 0

    async def realtime(socket: WebSocket) -> None:
        nonlocal num_sockets
        if num_sockets >= limits.max_sockets:
            await reject(socket, Busy(f"all {limits.max_sockets} sockets are taken"))
            return
        num_sockets += 1
        try:
            await Connection(socket, world, limits=limits, capacity=capacity).run()
        finally:
            num_sockets -= 1

    return realtime


def _about(world: World, lag: EventLoopLag) -> list[Route]:
    """What can be asked without a world: health, what is served, and the page."""

    async def health(request: Request) -> Response:
        ready = await world.ready()
        body = {
            "status": "ready" if ready else "warming",
            "loop_lag_ms": msgspec.to_builtins(lag.figures()),
        }
        return JSONResponse(body, status_code=200 if ready else 503)

    async def describe(request: Request) -> Response:
        body = msgspec.json.encode(describe_world(world.info))
        return Response(body, media_type="application/json")

    async def opening(request: Request) -> Response:
        name = request.path_params["name"]
        for candidate in world.info.openings:
            if candidate.name == name:
                headers = {"cache-control": "max-age=3600"}
                return Response(candidate.image, 200, headers, _media_type(candidate.image))
        raise HTTPException(404)

    async def page(request: Request) -> Response:
        return FileResponse(WEB / "index.html")

    return [
        Route("/v1/world", describe),
        Route("/v1/openings/{name}", opening),
        Route("/health", health),
        Route("/asyncapi.json", _document(describe_wire)),
        Route("/openapi.json", _document(describe_http)),
        Route("/", page),
    ]


def _document(describe: Callable[[], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
    async def document(request: Request) -> Response:
        return JSONResponse(await to_thread.run_sync(describe))  # 0.2 s, the first time

    return document


def describe_world(info: WorldInfo) -> WorldDescription:
    return WorldDescription(
        preset=info.preset,
        sizes=info.sizes,
        size_multiple=info.size_multiple,
        max_pixels=info.max_pixels,
        fps=info.fps,
        chunk_latent_frames=info.chunk_latent_frames,
        first_chunk_frames=info.first_chunk_frames,
        chunk_frames=info.chunk_frames,
        max_window=info.max_window,
        max_steps=info.max_steps,
        keys=KEYS,
        formats=list(get_args(Format)),
        openings=[
            OpeningLink(one.name, one.prompt, f"/v1/openings/{quote(one.name, safe='')}")
            for one in info.openings
        ],
    )


def _media_type(image: bytes) -> str:
    return "image/png" if image.startswith(b"\x89PNG") else "image/jpeg"
