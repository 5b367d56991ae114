"""Frames to an MP4 file, chunk by chunk: no clip is held as pixels."""

import io
from fractions import Fraction
from typing import Self

import av
import numpy as np
from av.video.stream import VideoStream

from transport.codecs.payload import Frames

CRF = "18"
FRAGMENT_US = "500000"


class Mp4Writer:
    """H.264 in yuv420p, which every player opens. Not thread-safe: one call at a time."""

    def __init__(self, *, width: int, height: int, fps: int, live: bool = False) -> None:
        """`live`: fragments that can be played before the end, and an encoder without delay.

        A file that is not live is smaller, and complete only after `close`.
        """
        options, codec = {}, {"crf": CRF}
        if live:
            options = {"movflags": "empty_moov+default_base_moof", "frag_duration": FRAGMENT_US}
            codec |= {"tune": "zerolatency"}
        self._file = _ForwardOnlyFile() if live else io.BytesIO()
        self._container = av.open(self._file, "w", format="mp4", options=options)
        stream = self._container.add_stream("libx264", rate=fps, options=codec)
        assert isinstance(stream, VideoStream)
        # 4:2:0 has no odd sizes: the last row or column is doubled.
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        stream.codec_context.thread_count = 1
        self._stream = stream
        self.num_frames = 0

    def add(self, frames: Frames) -> Self:
        """Appends `frames`, uint8 [T, H, W, 3]."""
        rows, columns = frames.shape[1] % 2, frames.shape[2] % 2
        if rows or columns:
            frames = np.pad(frames, ((0, 0), (0, rows), (0, columns), (0, 0)), mode="edge")
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = self.num_frames
            self.num_frames += 1
            self._container.mux(self._stream.encode(frame))
        return self

    def take(self) -> bytes:
        """The bytes written since the last call. Without `live`, call it after `close` only."""
        data = self._file.getvalue()
        self._file.seek(0)
        self._file.truncate()
        return data

    def close(self) -> Self:
        """Writes the end of the file."""
        if self.num_frames:
            self._container.mux(self._stream.encode(None))
        self._container.close()
        return self


class _ForwardOnlyFile(io.BytesIO):
    """A file that cannot seek, so that bytes already taken are never written again."""

    def seekable(self) -> bool:
        return False
