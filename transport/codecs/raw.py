"""Raw frames: the pixels themselves."""

import numpy as np

from transport.codecs.payload import Frames, Payload, Piece
from transport.wire.messages import RawLayout

RAW_CONTENT_TYPE = "application/x-raw-rgb"


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


class RawEncoder:
    """The pixels themselves: a payload is a view of the array that the frames came in."""

    in_order = False
    takes_long = False

    def __init__(self, *, max_bytes: int | None = None) -> None:
        """`max_bytes`: of a message, if it has more than one frame; None: as the plain wire."""
        self._max_bytes = max_bytes

    def frames_per_message(self, frame_bytes: int) -> int:
        return 16 if self._max_bytes is None else max(1, min(16, self._max_bytes // frame_bytes))

    def encode(self, piece: Piece) -> Payload:
        frames = np.ascontiguousarray(piece.frames)
        return Payload(
            RAW_CONTENT_TYPE, len(frames), raw_layout(frames), frames.reshape(-1).data.toreadonly()
        )

    def restart(self) -> None:
        """Every frame is decodable on its own."""
