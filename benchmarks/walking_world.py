"""A world that costs nothing to generate: a pan over a photograph, from Ray's object store.

    python -m benchmarks.walking_world --port P --arrivals FILE [--serve]

serves it by uvicorn in this process, or with --serve on Ray Serve behind its proxy, until SIGINT.
`GET /lag` returns the lag of the event loop since the last call, in ms, and the process's CPU
seconds. Each arrival of a chunk from the store adds a line to FILE: request id, and seconds of the
monotonic clock.
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
from transport.codecs.payload import Frame, Frames
from transport.event_loop_lag import EventLoopLag
from transport.wire.errors import Refused, SessionGone
from transport.wire.messages import Moved, WarningMessage
from transport.wire.world import OnWait, Opening, SavedWorld, WorldInfo, WorldSession, WorldSpec

WIDTH, HEIGHT = 832, 480
MEDIA_FPS = 16
FIRST_CHUNK_FRAMES, CHUNK_FRAMES = 9, 12
NUM_CHUNKS = 4  # distinct chunks; they repeat
PHOTOGRAPH = Path(__file__).with_name("jungle.jpg")
LAG_EVERY_S = 0.005


def make_chunks() -> list[Frames]:
    """A camera that turns, with the faint noise of generated frames: [12, 480, 832, 3] each."""
    num_frames = NUM_CHUNKS * CHUNK_FRAMES
    with Image.open(PHOTOGRAPH) as file:
        wide = np.asarray(file.convert("RGB").resize((WIDTH + 2 * num_frames, HEIGHT)))
    random = np.random.default_rng(0)
    frames = np.stack([wide[:, 2 * t : 2 * t + WIDTH] for t in range(num_frames)])
    noisy = frames + random.normal(0, 1, frames.shape).astype(np.float32)
    return np.split(np.clip(noisy, 0, 255).astype(np.uint8), NUM_CHUNKS)


@ray.remote(num_cpus=0)
class FrameSource:
    """Takes the place of a rank: each call puts one array into the object store."""

    def __init__(self) -> None:
        self._chunks = make_chunks()

    def fetch(self, index: int) -> Frames:
        chunk = self._chunks[index % NUM_CHUNKS]
        return chunk if index else chunk[:FIRST_CHUNK_FRAMES]


class WalkingSession:
    def __init__(self, source: Any, session_id: str, arrivals_file: int) -> None:
        """`arrivals_file` is a file descriptor."""
        self.id = session_id
        self._source = source
        self._arrivals_file = arrivals_file
        self.chunk_index = 0
        self.earliest_chunk = 0
        self.age_s = 0.0
        self.resume_token: str | None = None
        self.last_frame: NDArray[np.uint8] | None = None

    async def step(
        self, actions: Sequence[str], *, prompt: str | None, time_to_underrun_s: float
    ) -> Awaitable[Frames]:
        index, self.chunk_index = self.chunk_index, self.chunk_index + 1
        return asyncio.ensure_future(self._receive(index, self._source.fetch.remote(index)))

    async def encode(self, prompt: str) -> None:
        """Never called: this world has no `encodes_prompts`."""

    async def _receive(self, index: int, reply: Awaitable[Frames]) -> Frames:
        frames = await reply
        os.write(self._arrivals_file, f"{self.id}-{index} {time.monotonic()}\n".encode())
        return frames

    async def save(self) -> bytes:
        raise Refused("this world cannot be saved")

    async def fork(self) -> tuple[str, int]:
        raise Refused("this world cannot be forked")

    async def rewind(self, chunk_index: int) -> None:
        raise Refused("this world cannot be turned back")

    async def reset(self, *, seed: int, prompt: str | None) -> None:
        raise Refused("this world cannot be reset")

    def take_notices(self) -> list[WarningMessage | Moved]:
        return []

    async def lost(self) -> str:
        await asyncio.Event().wait()
        return ""

    def pause(self) -> None:
        """There is no speed to share."""

    def unpause(self) -> None:
        """There is no place to wait for."""

    def close(self) -> None:
        """There is nothing to free."""

    def detach(self) -> None:
        """There is nothing to keep."""


def describe_walking_world() -> WorldInfo:
    return WorldInfo(
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
        openings=(Opening(name="jungle", prompt="a jungle", image=PHOTOGRAPH.read_bytes()),),
    )


class WalkingWorld:
    def __init__(self, arrivals: str) -> None:
        self.info = describe_walking_world()
        self._source = FrameSource.remote()  # type: ignore[attr-defined]
        self._arrivals_file = os.open(arrivals, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._num_sessions = 0

    async def open(self, spec: WorldSpec, image: Frame, *, on_wait: OnWait) -> WalkingSession:
        self._num_sessions += 1
        session_id = f"{os.getpid()}.{self._num_sessions}"
        return WalkingSession(self._source, session_id, self._arrivals_file)

    def read_snapshot(self, data: bytes) -> SavedWorld:
        raise Refused("this world has no snapshots", field="snapshot")

    async def open_snapshot(
        self, saved: SavedWorld, *, on_wait: OnWait, realtime: bool = True, resumable: bool = False
    ) -> WalkingSession:
        raise Refused("this world has no snapshots", field="snapshot")

    async def read_fork(self, token: str) -> SavedWorld:
        raise SessionGone("this world has no forks", field="fork")

    async def resume(
        self, token: str, *, on_wait: OnWait, realtime: bool = True
    ) -> tuple[WorldSession, SavedWorld]:
        raise SessionGone("this world is not resumed", field="resume")

    async def draining(self) -> str:
        await asyncio.Event().wait()
        return ""

    async def memory(self) -> None:
        """There is no group."""

    async def ready(self) -> bool:
        return True


class LoopMonitor:
    """The endpoint `GET /lag`; each call starts a new measurement."""

    def __init__(self) -> None:
        self._lag = EventLoopLag(every_s=LAG_EVERY_S)
        self._task: asyncio.Task[None] | None = None

    async def respond(self, request: Request) -> Response:
        figures = self._lag.stats()
        if self._task is not None:
            self._task.cancel()
        self._lag = EventLoopLag(every_s=LAG_EVERY_S)
        self._task = asyncio.create_task(self._lag.run())
        times = os.times()
        body = {"cpu_s": times.user + times.system, "pid": os.getpid()}
        if figures is not None:
            body |= {"p50": figures.p50, "p99": figures.p99, "max": figures.max}
        return JSONResponse(body)


def build_walking_app(arrivals: str) -> Starlette:
    """The server's application with the walking world, and the monitor of its event loop."""
    app = build_app(WalkingWorld(arrivals))
    return Starlette(routes=[Route("/lag", LoopMonitor().respond), Mount("/", app)])


class WalkingDeployment:
    def __init__(self, arrivals: str) -> None:
        self._arrivals = arrivals

    def __serve_build_asgi_app__(self) -> Starlette:
        return add_serve_middleware(build_walking_app(self._arrivals))


def run_on_serve(port: int, arrivals: str) -> None:
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    deployment = serve.deployment(
        name="WalkingDeployment", max_ongoing_requests=50, ray_actor_options={"num_cpus": 0}
    )
    serve.run(deployment(serve.ingress()(WalkingDeployment)).bind(arrivals))
    interrupted = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    print(json.dumps({"ready": True}), flush=True)
    interrupted.wait()
    serve.shutdown()


def run_on_uvicorn(port: int, arrivals: str) -> None:
    print(json.dumps({"ready": True}), flush=True)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    uvicorn.run(
        build_walking_app(arrivals),
        port=port,
        ws_per_message_deflate=False,
        log_level="error",
        lifespan="off",
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--arrivals", required=True)
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    run = run_on_serve if options.serve else run_on_uvicorn
    run(options.port, options.arrivals)


if __name__ == "__main__":
    main()
