"""H.264 for live play: no frame waits for another, one access unit a message, in Annex B.

Frames must come in order; a first one, and one after `restart`, can be decoded on its own.
"""

from fractions import Fraction

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import (
    ColorPrimaries,
    ColorRange,
    Colorspace,
    ColorTrc,
    VideoReformatter,
)

from transport.codecs.payload import Frames, Payload, Piece, preview_size
from transport.wire.messages import Encoding, VideoLayout

CONTENT_TYPE = "video/h264"
# BT.601 of limited range. The stream says all of it: players guess at what is left out.
COLORS = Colorspace.ITU601
RANGE = ColorRange.MPEG
PRIMARIES = ColorPrimaries.SMPTE170M
TRANSFER = ColorTrc.SMPTE170M
OPTIONS = {"preset": "ultrafast", "tune": "zerolatency", "bf": "0"}
KEY_EVERY_S = 30  # for who joins a recording in the middle; a session's own asks for them


class H264Encoder:
    """One stream, until its size or its quality changes."""

    in_order = True
    takes_long = True

    def __init__(self, encoding: Encoding, *, fps: int) -> None:
        self._max_width = encoding.preview_max_width
        self._crf = crf_of(encoding.quality)
        self._fps = fps
        self._reformatter = VideoReformatter()
        self._stream: VideoCodecContext | None = None
        self._restart = True
        self._codec = ""  # as the last key frame's parameter set says

    def frames_per_message(self, frame_bytes: int) -> int:
        return 1

    def restart(self) -> None:
        self._restart = True

    def encode(self, piece: Piece) -> Payload:
        (pixels,) = piece.frames
        source_height, source_width, channels = pixels.shape
        width, height = even(*preview_size(source_width, source_height, self._max_width))
        if self._stream is None:
            self._stream = open_stream(width, height, fps=self._fps, crf=self._crf)
        frame = self._picture(pixels, width, height)
        frame.pts = piece.position + piece.start
        frame.time_base = Fraction(1, self._fps)
        frame.pict_type = PictureType.I if self._restart else PictureType.NONE
        (packet,) = self._stream.encode(frame)
        self._restart = False
        data = bytes(packet)
        if packet.is_keyframe:
            self._codec = codec_of(data)
        layout = VideoLayout(
            format="h264",
            width=width,
            height=height,
            channels=channels,
            bytes_per_frame=source_width * source_height * channels,
            encoding="h264",
            source_width=source_width,
            source_height=source_height,
            preview_width=width,
            preview_height=height,
            payload_lengths=[len(data)],
            codec=self._codec,
            timestamp_us=(piece.position + piece.start) * 1_000_000 // self._fps,
            key_frame=packet.is_keyframe,
        )
        return Payload(CONTENT_TYPE, 1, layout, data)

    def _picture(self, pixels: Frames, width: int, height: int) -> VideoFrame:
        source = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(pixels), format="rgb24")
        return self._reformatter.reformat(
            source,
            width=width,
            height=height,
            format="yuv420p",
            dst_colorspace=COLORS,
            dst_color_range=RANGE,
            threads=1,
        )


def open_stream(width: int, height: int, *, fps: int, crf: int) -> VideoCodecContext:
    stream = av.CodecContext.create("libx264", "w")
    assert isinstance(stream, VideoCodecContext)
    stream.width, stream.height = width, height
    stream.pix_fmt = "yuv420p"
    stream.framerate = Fraction(fps)
    stream.time_base = Fraction(1, fps)
    stream.gop_size = KEY_EVERY_S * fps
    stream.colorspace = COLORS
    stream.color_range = RANGE
    stream.color_primaries = PRIMARIES
    stream.color_trc = TRANSFER
    stream.thread_count = 1  # by default it has a pool of its own, beside the one that is bounded
    stream.options = OPTIONS | {"crf": str(crf), "forced-idr": "1"}
    return stream


def crf_of(quality: int) -> int:
    """x264's constant rate factor for a quality of 1 to 100: 90 is 20, the best 16."""
    return min(51, 56 - quality * 2 // 5)


def even(width: int, height: int) -> tuple[int, int]:
    """4:2:0 has no odd sizes."""
    return max(2, width // 2 * 2), max(2, height // 2 * 2)


def codec_of(data: bytes) -> str:
    """The name of a stream by RFC 6381, from the parameter set in front of its key frame."""
    at = 0
    while (at := data.index(b"\0\0\1", at) + 3) and data[at] & 31 != 7:
        pass
    return f"avc1.{data[at + 1 : at + 4].hex()}"


class H264Decoder:
    """The way back, for clients in Python."""

    def __init__(self) -> None:
        self._stream = av.CodecContext.create("h264", "r")
        assert isinstance(self._stream, VideoCodecContext)
        self._stream.options = {"flags": "low_delay"}
        self._stream.thread_count = 1  # frame threads would hold frames back

    def decode(self, data: bytes) -> Frames:
        """The frames of one access unit: [1, H, W, 3]."""
        frames = self._stream.decode(av.Packet(data))
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
