"""Raw frames: uncompressed RGB pixels."""

import numpy as np

from transport.codecs.payload import FrameBatch, Frames, Payload
from transport.wire.messages import RawLayout

CONTENT_TYPE = "application/x-raw-rgb"
MAX_BATCH_FRAMES = 16


class RawEncoder:
    """A payload is a view of the chunk's array, not a copy."""

    is_sequential = False
    needs_worker = False

    def __init__(self, *, max_batch_bytes: int | None = None) -> None:
        """`max_batch_bytes` bounds a batch of several frames; None: no bound in bytes."""
        self._max_batch_bytes = max_batch_bytes

    def max_batch_frames(self, frame_bytes: int) -> int:
        if self._max_batch_bytes is None:
            return MAX_BATCH_FRAMES
        return max(1, min(MAX_BATCH_FRAMES, self._max_batch_bytes // frame_bytes))

    def encode(self, batch: FrameBatch) -> Payload:
        frames = np.ascontiguousarray(batch.frames)
        return Payload(
            content_type=CONTENT_TYPE,
            num_frames=len(frames),
            layout=raw_layout(frames),
            data=frames.reshape(-1).data.toreadonly(),
        )

    def restart(self) -> None:
        """Every frame can be decoded on its own."""


def raw_layout(frames: Frames, *, encoding: str = "raw") -> RawLayout:
    _, height, width, channels = frames.shape
    return RawLayout(
        format="rgb24",
        width=width,
        height=height,
        channels=channels,
        bytes_per_frame=height * width * channels,
        raw_size=frames.nbytes,
        encoding=encoding,
    )
