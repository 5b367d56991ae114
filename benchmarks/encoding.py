"""What a chunk costs to encode, beside the path that other servers take."""

import asyncio
import io
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, cast, get_args

import anyio
import numpy as np
from msgspec import msgpack
from PIL import Image

from benchmarks.walking_world import HEIGHT, MEDIA_FPS, WIDTH, Frames, make_chunks
from transport.codecs.decoder import Decoder, decode_picture
from transport.connection.chunk_sender import ChunkSender
from transport.connection.chunk_slot import GeneratedChunk
from transport.connection.sender import MessageSender
from transport.wire.controls import ChunkControls
from transport.wire.messages import Encoding, Format
from transport.wire.output_settings import OutputSettings

FORMATS: tuple[Format, ...] = get_args(Format)
OTHERS_WEBP = "others' webp q90"

Row = dict[str, Any]


class Nowhere:
    """A socket that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes | memoryview] = []

    async def send_bytes(self, data: bytes | memoryview) -> None:
        self.sent.append(data)


class Ready:
    """Pictures that are there."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames

    def __await__(self) -> Generator[Any, None, Frames]:
        yield from asyncio.sleep(0).__await__()
        return self._frames


class Ours:
    """A session's delivery, without the socket."""

    def __init__(self, encoding: Encoding, limiter: anyio.CapacityLimiter) -> None:
        self._socket = Nowhere()
        plan = type(
            "SessionRequest", (), {"extensions": False, "flushes_older": False, "fps": MEDIA_FPS}
        )
        self._delivery = ChunkSender(
            MessageSender(cast(Any, self._socket), timeout_s=60),
            OutputSettings(encoding),
            cast(Any, plan),
            session_id="s",
            limiter=limiter,
        )
        self._decoder = Decoder()
        self._index = 0

    async def encode(self, frames: Frames) -> None:
        self._socket.sent.clear()
        chunk = GeneratedChunk(
            index=self._index,
            frames=cast(Awaitable[Frames], Ready(frames)),
            num_frames=len(frames),
            position=0,
            controls=ChunkControls(actions=[], event_ids=[], prompt=None),
            event_id=None,
            waited_s=0,
            prepared_s=0,
            denoising_s=0,
        )
        self._index += 1
        await self._delivery.send(chunk)

    @property
    def num_bytes(self) -> int:
        return sum(len(data) for data in self._socket.sent)

    def decode(self) -> Frames:
        pieces, sent = [], iter(self._socket.sent)
        for data in sent:
            message = msgpack.decode(data)
            if message["type"] == "frame_batch_header":
                message["payload"] = bytes(next(sent))
            if "payload" in message:
                pieces.append(self._decoder.decode(message, message["payload"]))
        return np.concatenate(pieces)


class Theirs:
    """The path of other servers: as fast as it goes, with a thread for each frame."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._pictures: list[bytes] = []
        self.num_bytes = 0

    async def encode(self, frames: Frames) -> None:
        self._pictures = await asyncio.gather(
            *(asyncio.to_thread(self._encode, frame.tobytes()) for frame in frames)
        )
        lengths = [len(picture) for picture in self._pictures]
        message = {"type": "frame_batch", "payload_lengths": lengths}
        self.num_bytes = len(msgpack.encode(message | {"payload": b"".join(self._pictures)}))

    def _encode(self, pixels: bytes) -> bytes:
        file = io.BytesIO()
        Image.frombytes("RGB", (WIDTH, HEIGHT), pixels).save(file, **self._options)
        return file.getvalue()

    def decode(self) -> Frames:
        return np.stack([decode_picture(picture) for picture in self._pictures])


async def measure_encoding(rounds: int) -> dict[str, Row]:
    limiter = anyio.CapacityLimiter(os.cpu_count() or 1)
    makers: dict[str, Callable[[], Ours | Theirs]] = {
        name: partial(Ours, Encoding(format=name), limiter) for name in FORMATS
    } | {
        "jpeg q95 4:4:4": partial(Ours, Encoding(format="jpeg", quality=95, chroma="444"), limiter),
        OTHERS_WEBP: partial(Theirs, format="WEBP", quality=90, method=0),
        "others' jpeg q95 4:4:4": partial(Theirs, format="JPEG", quality=95, subsampling=0),
    }
    chunks = make_chunks()
    ways = {name: make() for name, make in makers.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for index in range(rounds + 1):
        for name, way in ways.items():
            began, cpu = time.perf_counter(), time.process_time()
            await way.encode(chunks[index % len(chunks)])
            taken = time.perf_counter() - began, time.process_time() - cpu
            if index:  # the first round opens codecs
                times[name].append(taken)
    rows: dict[str, Row] = {}
    for name, way in ways.items():
        rows[name] = {
            "build_ms": round(1000 * statistics.median(wall for wall, _ in times[name]), 1),
            "cpu_ms": round(1000 * statistics.median(cpu for _, cpu in times[name]), 1),
            "mb": round(way.num_bytes / 1e6, 2),
            "psnr_db": await measure_loss(makers[name](), chunks[0]),
        }
    webp_ms = rows[OTHERS_WEBP]["build_ms"]
    for row in rows.values():
        row["x_others_webp"] = round(webp_ms / row["build_ms"], 1) if row["build_ms"] else None
    return rows


async def measure_loss(way: Ours | Theirs, frames: Frames) -> float | None:
    """PSNR in dB; None: equal."""
    await way.encode(frames)
    error = float(np.mean((way.decode().astype(np.float32) - frames.astype(np.float32)) ** 2))
    return round(float(10 * np.log10(255**2 / error)), 1) if error else None
