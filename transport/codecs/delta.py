"""Lossless and smaller than raw: each frame as its difference to the previous one, then zstd.

A chunk can be decoded on its own: its first frame is the difference of each pixel to its left
neighbour. A later message of the same chunk begins with a difference to the last frame of the
previous message. Differences are modulo 256, so each fits a byte.
"""

import numpy as np
import zstandard

from transport.codecs.payload import Frame, FrameBatch, Frames, Payload
from transport.codecs.raw import raw_layout

CONTENT_TYPE = "application/x-delta-zstd-rgb"
MAX_BATCH_FRAMES = 6
ZSTD_LEVEL = 1  # higher levels double the time, and the noise of generated frames stays


class DeltaEncoder:
    """Keeps no state: a batch refers to frames of its own chunk only."""

    is_sequential = False
    needs_worker = True

    def __init__(self, *, max_batch_bytes: int) -> None:
        """`max_batch_bytes` bounds the pixels of a batch of several frames."""
        self._max_batch_bytes = max_batch_bytes

    def max_batch_frames(self, frame_bytes: int) -> int:
        return max(1, min(MAX_BATCH_FRAMES, self._max_batch_bytes // frame_bytes))

    def encode(self, batch: FrameBatch) -> Payload:
        frames = batch.frames
        previous = batch.chunk[batch.start - 1] if batch.start else None
        deltas = subtract(frames, previous)
        return Payload(
            content_type=CONTENT_TYPE,
            num_frames=len(frames),
            layout=raw_layout(frames, encoding="delta-zstd"),
            data=zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(deltas.data),
        )

    def restart(self) -> None:
        """Every chunk can be decoded on its own."""


def subtract(frames: Frames, previous: Frame | None) -> Frames:
    """Differences of [T, H, W, 3] to the frame before each.

    `previous` [H, W, 3] is the frame before the first; None: the first frame is the difference
    of each pixel to its left neighbour.
    """
    deltas = np.empty_like(frames)
    if previous is None:
        deltas[0, :, 0] = frames[0, :, 0]
        np.subtract(frames[0, :, 1:], frames[0, :, :-1], out=deltas[0, :, 1:])
    else:
        np.subtract(frames[0], previous, out=deltas[0])
    np.subtract(frames[1:], frames[:-1], out=deltas[1:])
    return deltas


def restore(data: bytes, shape: tuple[int, ...], previous: Frame | None) -> Frames:
    """The frames of one payload, of `shape` [T, H, W, 3]; the inverse of `subtract`.

    Raises ValueError for a payload of another size, zstandard.ZstdError for a damaged one.
    """
    num_bytes = int(np.prod(shape))
    deltas = zstandard.ZstdDecompressor().decompress(data, max_output_size=num_bytes)
    frames = np.frombuffer(deltas, np.uint8).reshape(shape).copy()
    if previous is None:
        np.cumsum(frames[0], axis=1, dtype=np.uint8, out=frames[0])
    else:
        frames[0] += previous
    return np.cumsum(frames, axis=0, dtype=np.uint8, out=frames)
