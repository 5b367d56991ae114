"""The cost to encode a chunk with each codec, beside the usual path: Pillow in threads."""

import asyncio
import io
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast, get_args

import anyio
import numpy as np
from msgspec import msgpack
from PIL import Image

from benchmarks.printing import Row
from benchmarks.walking_world import (
    HEIGHT,
    MEDIA_FPS,
    WIDTH,
    describe_walking_world,
    make_chunks,
)
from transport.codecs.decoder import Decoder, decode_picture
from transport.codecs.payload import Frames
from transport.connection.chunk_sender import ChunkSender
from transport.connection.chunk_slot import GeneratedChunk
from transport.connection.sender import MessageSender
from transport.wire.controls import ChunkControls
from transport.wire.limits import ClientLimits
from transport.wire.messages import Encoding, Format
from transport.wire.protocol import ServerProtocol

FORMATS: tuple[Format, ...] = get_args(Format)
PILLOW_WEBP = "pillow webp q90"


class EncodingPath(Protocol):
    """One way to turn a chunk into messages."""

    @property
    def num_bytes(self) -> int:
        """The size of the last chunk's messages."""
        ...

    async def encode(self, frames: Frames) -> None: ...

    def decode(self) -> Frames:
        """The frames of the last chunk's messages."""
        ...


class MemorySocket:
    """Keeps the messages that are sent through it."""

    def __init__(self) -> None:
        self.sent: list[bytes | memoryview] = []

    async def send_bytes(self, data: bytes | memoryview) -> None:
        self.sent.append(data)


class SenderPath:
    """The server's own path: a session's `ChunkSender` on a socket in memory."""

    def __init__(self, encoding: Encoding, limiter: anyio.CapacityLimiter) -> None:
        self._socket = MemorySocket()
        protocol = ServerProtocol(describe_walking_world(), limits=ClientLimits())
        protocol.receive(msgpack.encode({"type": "init", "fps": MEDIA_FPS}), 0.0)
        protocol.output.encoding = encoding
        protocol.send_session("s")
        sender = MessageSender(
            cast(Any, self._socket), timeout_s=60, on_progress=protocol.note_progress
        )
        self._sender = ChunkSender(sender, protocol, session_id="s", limiter=limiter)
        self._decoder = Decoder()
        self._num_chunks = 0

    async def encode(self, frames: Frames) -> None:
        self._socket.sent.clear()
        decoded: asyncio.Future[Frames] = asyncio.get_running_loop().create_future()
        decoded.set_result(frames)
        chunk = GeneratedChunk(
            index=self._num_chunks,
            frames=decoded,
            num_frames=len(frames),
            position=0,
            controls=ChunkControls(actions=[], event_ids=[], prompt=None),
            begun_s=0,
            waited_s=0,
            prepared_s=0,
            denoising_s=0,
        )
        self._num_chunks += 1
        await self._sender.send(chunk)

    @property
    def num_bytes(self) -> int:
        return sum(len(data) for data in self._socket.sent)

    def decode(self) -> Frames:
        batches, sent = [], iter(self._socket.sent)
        for data in sent:
            message = msgpack.decode(data)
            if message["type"] == "frame_batch_header":
                message["payload"] = bytes(next(sent))
            if "payload" in message:
                batches.append(self._decoder.decode(message, message["payload"]))
        return np.concatenate(batches)


class PillowPath:
    """The usual path: each frame in a thread, all pictures joined, one message for the chunk."""

    def __init__(self, **options: Any) -> None:
        """`options` of Pillow's `Image.save`."""
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


async def measure_encoding(num_rounds: int) -> dict[str, Row]:
    """Time, CPU time, size and PSNR of each path; in each round, every path encodes one chunk."""
    openers = list_paths()
    paths = {name: open_path() for name, open_path in openers.items()}
    chunks = make_chunks()
    times_s: dict[str, list[tuple[float, float]]] = {name: [] for name in paths}  # wall, CPU
    for index in range(num_rounds + 1):
        for name, path in paths.items():
            began = time.perf_counter(), time.process_time()
            await path.encode(chunks[index % len(chunks)])
            ended = time.perf_counter(), time.process_time()
            if index:  # the first round opens codecs
                times_s[name].append((ended[0] - began[0], ended[1] - began[1]))
    rows = {}
    for name, path in paths.items():
        wall_s, cpu_s = (statistics.median(column) for column in zip(*times_s[name], strict=True))
        rows[name] = {
            "build_ms": round(1000 * wall_s, 1),
            "cpu_ms": round(1000 * cpu_s, 1),
            "mb": round(path.num_bytes / 1e6, 2),
            "psnr_db": await measure_psnr(openers[name](), chunks[0]),
        }
    webp_ms = rows[PILLOW_WEBP]["build_ms"]
    for row in rows.values():
        row["x_pillow_webp"] = round(webp_ms / row["build_ms"], 1) if row["build_ms"] else None
    return rows


def list_paths() -> dict[str, Callable[[], EncodingPath]]:
    """Functions that open each path, by its name in the table."""
    limiter = anyio.CapacityLimiter(os.cpu_count() or 1)
    jpeg = Encoding(format="jpeg", quality=95, chroma="444")
    return {
        **{name: partial(SenderPath, Encoding(format=name), limiter) for name in FORMATS},
        "jpeg q95 4:4:4": partial(SenderPath, jpeg, limiter),
        PILLOW_WEBP: partial(PillowPath, format="WEBP", quality=90, method=0),
        "pillow jpeg q95 4:4:4": partial(PillowPath, format="JPEG", quality=95, subsampling=0),
    }


async def measure_psnr(path: EncodingPath, frames: Frames) -> float | None:
    """PSNR in dB; None: equal."""
    await path.encode(frames)
    error = float(np.mean((path.decode().astype(np.float32) - frames.astype(np.float32)) ** 2))
    return round(float(10 * np.log10(255**2 / error)), 1) if error else None
