"""A world that costs nothing to generate: a walk through a photograph, out of Ray's object store.

    python -m benchmarks.walking_world --port P --stamps FILE [--serve]

serves it by uvicorn in this process, or, with --serve, on Ray Serve behind its proxy, until it is
told to stop. `GET /lag` gives the event loop's lag since it was asked the last time, in ms; each
chunk's time of arrival from the store goes to FILE, a line each: request id and seconds of the
machine's monotonic clock.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import uvicorn
from numpy.typing import NDArray
from PIL import Image
from ray import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from deployments.serve_middleware import SWITCH_INTERVAL_S, add_serve_middleware
from transport.app import build_app
from transport.event_loop_lag import EventLoopLag
from transport.wire.world import OnWait, Opening, WorldInfo, WorldSpec

WIDTH, HEIGHT = 832, 480
MEDIA_FPS = 16
FIRST_CHUNK_FRAMES, CHUNK_FRAMES = 9, 12
NUM_CHUNKS = 4  # that are different
PICTURE = Path(__file__).with_name("jungle.jpg")
LAG_EVERY_S = 0.005

Frames = NDArray[np.uint8]


def make_chunks() -> list[Frames]:
    """A camera that turns, and the faint noise of a generated picture: [12, 480, 832, 3] each."""
    num_frames = NUM_CHUNKS * CHUNK_FRAMES
    with Image.open(PICTURE) as file:
        wide = np.asarray(file.convert("RGB").resize((WIDTH + 2 * num_frames, HEIGHT)))
    chance = np.random.default_rng(0)
    frames = np.stack([wide[:, 2 * t : 2 * t + WIDTH] for t in range(num_frames)])
    noisy = frames + chance.normal(0, 1, frames.shape).astype(np.float32)
    return np.split(np.clip(noisy, 0, 255).astype(np.uint8), NUM_CHUNKS)


@ray.remote(num_cpus=0)
class Painter:
    """Stands where a rank stands: each call puts one array into the object store."""

    def __init__(self) -> None:
        self._chunks = make_chunks()

    def paint(self, index: int) -> Frames:
        chunk = self._chunks[index % NUM_CHUNKS]
        return chunk if index else chunk[:FIRST_CHUNK_FRAMES]


class WalkingSession:
    def __init__(self, painter: Any, session_id: str, stamps: int) -> None:
        self.id = session_id
        self._painter = painter
        self._stamps = stamps
        self._num_chunks = 0

    async def step(
        self, actions: Sequence[str], *, prompt: str | None, time_to_underrun_s: float
    ) -> Awaitable[Frames]:
        index, self._num_chunks = self._num_chunks, self._num_chunks + 1
        return asyncio.ensure_future(self._pictures(index, self._painter.paint.remote(index)))

    async def _pictures(self, index: int, reply: Awaitable[Frames]) -> Frames:
        frames = await reply
        os.write(self._stamps, f"{self.id}-{index} {time.monotonic()}\n".encode())
        return frames

    async def lost(self) -> str:
        await asyncio.Event().wait()
        return ""

    def close(self) -> None:
        """Nothing is held."""


class WalkingWorld:
    def __init__(self, stamps: str) -> None:
        self.info = WorldInfo(
            preset="walking",
            sizes=((WIDTH, HEIGHT),),
            size_multiple=16,
            max_pixels=WIDTH * HEIGHT,
            fps=MEDIA_FPS,
            chunk_latent_frames=3,
            first_chunk_frames=FIRST_CHUNK_FRAMES,
            chunk_frames=CHUNK_FRAMES,
            max_window=21,
            sink=6,
            max_steps=4,
            openings=(Opening(name="jungle", prompt="a jungle", image=PICTURE.read_bytes()),),
        )
        self._painter = Painter.remote()  # type: ignore[attr-defined]
        self._stamps = os.open(stamps, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._num_sessions = 0

    async def open(self, spec: WorldSpec, image: Frames, *, on_wait: OnWait) -> WalkingSession:
        self._num_sessions += 1
        return WalkingSession(self._painter, f"{os.getpid()}.{self._num_sessions}", self._stamps)

    async def ready(self) -> bool:
        return True


def build_bench(stamps: str) -> Starlette:
    """The product's application, and the lag of the loop that it runs on."""
    app = build_app(WalkingWorld(stamps))
    watching: dict[str, Any] = {}

    async def lag(request: Request) -> Response:
        """Since the last call; also the process's CPU seconds."""
        if watching:
            watching["task"].cancel()
        figures = watching["lag"].figures() if watching else None
        watching["lag"] = EventLoopLag(every_s=LAG_EVERY_S)
        watching["task"] = asyncio.create_task(watching["lag"].run())
        times = os.times()
        body = {"cpu_s": times.user + times.system, "pid": os.getpid()}
        if figures is not None:
            body |= {"p50": figures.p50, "p99": figures.p99, "max": figures.max}
        return JSONResponse(body)

    return Starlette(routes=[Route("/lag", lag), Mount("/", app)])


class Bench:
    def __init__(self, stamps: str) -> None:
        self._stamps = stamps

    def __serve_build_asgi_app__(self) -> Starlette:
        return add_serve_middleware(build_bench(self._stamps))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--stamps", required=True)
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    if options.serve:
        serve.start(http_options={"host": "127.0.0.1", "port": options.port})
        deployment = serve.deployment(
            name="Bench", max_ongoing_requests=50, ray_actor_options={"num_cpus": 0}
        )
        serve.run(deployment(serve.ingress()(Bench)).bind(options.stamps))
        done = threading.Event()
        signal.signal(signal.SIGINT, lambda *_: done.set())
        print(json.dumps({"ready": True}), flush=True)
        done.wait()
        serve.shutdown()
    else:
        print(json.dumps({"ready": True}), flush=True)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        uvicorn.run(
            build_bench(options.stamps),
            port=options.port,
            ws_per_message_deflate=False,
            log_level="error",
            lifespan="off",
        )


if __name__ == "__main__":
    main()
