"""Frames to payloads: what a codec is to a session, and the messages that payloads travel in."""

from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from transport.wire.messages import FrameBatchHeader, HeaderExtras, Layout, encode_batch

Frame = NDArray[np.uint8]  # [H, W, 3]
Frames = NDArray[np.uint8]  # [T, H, W, 3]


class Piece(Struct, frozen=True):
    """Consecutive frames of a chunk that travel in one message."""

    chunk: Frames  # all of it, contiguous
    start: int
    stop: int
    position: int  # of the chunk's first frame in the world, dropped ones counted

    @property
    def frames(self) -> Frames:
        return self.chunk[self.start : self.stop]


class Payload(Struct, frozen=True):
    """A piece, ready to be sent."""

    content_type: str
    num_frames: int
    layout: Layout
    data: bytes | memoryview


class Encoder(Protocol):
    """A codec at work for one session; what it remembers is freed with it."""

    in_order: bool  # whether a piece can only be encoded after the one before
    takes_long: bool  # too long for an event loop: it lets go of the GIL, and belongs in a thread

    def frames_per_message(self, frame_bytes: int) -> int:
        """At most; `frame_bytes` of pixels each."""
        ...

    def encode(self, piece: Piece) -> Payload:
        """Raises whatever the codec's library raises."""
        ...

    def restart(self) -> None:
        """Makes the next frame decodable without those before it."""
        ...


class Batch(Struct, frozen=True):
    """What goes on the wire for one payload: one binary frame, or a header and a bare one."""

    parts: list[bytes | memoryview]
    num_frames: int
    content_type: str
    num_bytes: int


def split(chunk: Frames, encoder: Encoder, *, start: int = 0, position: int = 0) -> list[Piece]:
    """The chunk from frame `start` on, as the encoder takes it."""
    step = encoder.frames_per_message(chunk[0].nbytes)
    return [
        Piece(chunk, begin, min(begin + step, len(chunk)), position)
        for begin in range(start, len(chunk), step)
    ]


def build_batch(
    payload: Payload,
    *,
    request_id: str,
    chunk_index: int,
    index: int,
    num_batches: int,
    event_id: int | None = None,
    extras: HeaderExtras | None = None,
) -> Batch:
    """The messages of one payload, the `index`-th of its chunk. `data` is not copied."""
    header = FrameBatchHeader(
        request_id=request_id,
        chunk_index=chunk_index,
        content_type=payload.content_type,
        num_frames=payload.num_frames,
        total_size=len(payload.data),
        frame_batch_index=index,
        num_frame_batches=num_batches,
        is_final_frame_batch=index == num_batches - 1,
        event_id=event_id,
    )
    parts = encode_batch(header, payload.layout, payload.data, extras=extras)
    num_bytes = sum(len(part) for part in parts)
    return Batch(parts, payload.num_frames, payload.content_type, num_bytes)


def preview_size(width: int, height: int, max_width: int | None) -> tuple[int, int]:
    """(width, height) of the pictures that are sent: never wider, same aspect."""
    if max_width is None or width <= max_width:
        return width, height
    return max_width, max(1, round(height * max_width / width))
