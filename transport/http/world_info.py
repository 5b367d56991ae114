"""`GET /v1/world`: the facts of the served world, and the openings that it comes with."""

from typing import get_args
from urllib.parse import quote

import msgspec
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from transport.paths import OPENINGS_PATH, WORLD_PATH
from transport.wire.controls import KEYS
from transport.wire.errors import quote as quote_value
from transport.wire.messages import Format
from transport.wire.world import World, WorldInfo, WorldMemory


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
    memory: WorldMemory | None = None  # null while no replica group has answered


def world_route(world: World) -> Route:
    async def world_info(request: Request) -> Response:
        body = msgspec.json.encode(describe_world(world.info, await world.memory()))
        return Response(body, media_type="application/json")

    return Route(WORLD_PATH, world_info)


def opening_route(world: World) -> Route:
    """The opening's image by its name, or 404."""

    async def opening(request: Request) -> Response:
        name = request.path_params["name"]
        for candidate in world.info.openings:
            if candidate.name == name:
                headers = {"cache-control": "max-age=3600"}
                return Response(candidate.image, 200, headers, _media_type(candidate.image))
        known = ", ".join(quote(one.name) for one in world.info.openings) or "none"
        raise HTTPException(404, f"{quote_value(name)} is not an opening, expected one of: {known}")

    return Route(f"{OPENINGS_PATH}/{{name}}", opening)


def describe_world(info: WorldInfo, memory: WorldMemory | None = None) -> WorldDescription:
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
            OpeningLink(one.name, one.prompt, f"{OPENINGS_PATH}/{quote(one.name, safe='')}")
            for one in info.openings
        ],
        memory=memory,
    )


def _media_type(image: bytes) -> str:
    return "image/png" if image.startswith(b"\x89PNG") else "image/jpeg"
