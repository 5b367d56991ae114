"""Lossless and smaller than raw: each frame as its difference to the one before, then zstd.

A chunk can be decoded on its own: its first frame is a difference to its own left neighbours. A
later message of the same chunk begins with a difference to the last frame of the one before.
Differences are modulo 256, so they are bytes too.
"""

import numpy as np
import zstandard

from transport.codecs.payload import Frames, Payload, Piece
from transport.codecs.raw import raw_layout

CONTENT_TYPE = "application/x-delta-zstd-rgb"
LEVEL = 1  # beyond, the time doubles and the noise of a generated picture stays


class DeltaEncoder:
    """Needs no memory: what a piece refers to is in the same chunk."""

    in_order = False
    takes_long = True

    def __init__(self, *, max_bytes: int) -> None:
        """`max_bytes`: of the pixels behind a message, if it has more than one frame."""
        self._max_bytes = max_bytes

    def frames_per_message(self, frame_bytes: int) -> int:
        return max(1, min(6, self._max_bytes // frame_bytes))

    def encode(self, piece: Piece) -> Payload:
        frames = piece.frames
        before = piece.chunk[piece.start - 1] if piece.start else None
        data = zstandard.ZstdCompressor(level=LEVEL).compress(subtract(frames, before).data)
        return Payload(CONTENT_TYPE, len(frames), raw_layout(frames, encoding="delta-zstd"), data)

    def restart(self) -> None:
        """Every chunk is decodable on its own."""


def subtract(frames: Frames, before: Frames | None) -> Frames:
    """Differences of [T, H, W, 3] to the frame before each; `before` [H, W, 3] is the first's."""
    deltas = np.empty_like(frames)
    if before is None:
        deltas[0, :, 0] = frames[0, :, 0]
        np.subtract(frames[0, :, 1:], frames[0, :, :-1], out=deltas[0, :, 1:])
    else:
        np.subtract(frames[0], before, out=deltas[0])
    np.subtract(frames[1:], frames[:-1], out=deltas[1:])
    return deltas


def restore(data: bytes, shape: tuple[int, ...], before: Frames | None) -> Frames:
    """The frames [T, H, W, 3] of one payload. Raises ValueError if it is of another size, and
    zstandard.ZstdError if it is damaged.
    """
    size = int(np.prod(shape))
    pixels = zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    frames = np.frombuffer(pixels, np.uint8).reshape(shape).copy()
    if before is None:
        np.cumsum(frames[0], axis=1, dtype=np.uint8, out=frames[0])
    else:
        frames[0] += before
    return np.cumsum(frames, axis=0, dtype=np.uint8, out=frames)
