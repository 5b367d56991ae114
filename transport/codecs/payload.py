"""Frame batches, their payloads and headers; the interface of a codec."""

from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from transport.wire.messages import FrameBatchHeader, Layout

DEFAULT_QUALITY = 90

Frame = NDArray[np.uint8]  # [H, W, 3]
Frames = NDArray[np.uint8]  # [T, H, W, 3]


class FrameBatch(Struct, frozen=True, kw_only=True):
    """Consecutive frames of a chunk that travel together."""

    chunk: Frames  # all frames of the chunk, contiguous
    start: int  # index in the chunk of the batch's first frame
    stop: int
    position: int  # index in the world of the chunk's first frame; dropped frames count

    @property
    def frames(self) -> Frames:
        return self.chunk[self.start : self.stop]


class Payload(Struct, frozen=True, kw_only=True):
    """An encoded frame batch."""

    content_type: str
    num_frames: int
    layout: Layout
    data: bytes | memoryview


class Encoder(Protocol):
    """The codec of one session, with the state that it keeps between batches."""

    is_sequential: bool  # a batch can only be encoded after the one before
    needs_worker: bool  # encoding would block an event loop; it releases the GIL

    def max_batch_frames(self, frame_bytes: int) -> int:
        """The most frames in a batch, each of `frame_bytes` of pixels."""
        ...

    def encode(self, batch: FrameBatch) -> Payload:
        """Raises any exception of the codec's library."""
        ...

    def restart(self) -> None:
        """Encodes the next frame so that it can be decoded without earlier ones."""
        ...


def split_chunk(
    chunk: Frames, encoder: Encoder, *, start: int = 0, position: int = 0
) -> list[FrameBatch]:
    """The batches of a chunk from frame `start` on."""
    size = encoder.max_batch_frames(chunk[0].nbytes)
    return [
        FrameBatch(chunk=chunk, start=first, stop=min(first + size, len(chunk)), position=position)
        for first in range(start, len(chunk), size)
    ]


def build_header(
    payload: Payload,
    *,
    request_id: str,
    chunk_index: int,
    index: int,
    num_batches: int,
    event_id: int | None = None,
) -> FrameBatchHeader:
    """The header of a payload, the `index`-th of its chunk."""
    return FrameBatchHeader(
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


def preview_size(width: int, height: int, max_width: int | None) -> tuple[int, int]:
    """(width, height) of the frames that are sent: at most `max_width` wide, in the same aspect."""
    if max_width is None or width <= max_width:
        return width, height
    return max_width, max(1, round(height * max_width / width))
