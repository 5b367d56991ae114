"""H.264 without delay: one access unit a message, in Annex B, and no bidirectional frames.

Frames must be decoded in order. The first frame is a key frame: decoding can begin at any key
frame.
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

from transport.codecs.payload import (
    DEFAULT_QUALITY,
    Frame,
    FrameBatch,
    Frames,
    Payload,
    preview_size,
)
from transport.wire.messages import Encoding, VideoLayout

CONTENT_TYPE = "video/h264"
# BT.601 of limited range. The stream names all four, because players guess at missing ones.
COLORSPACE = Colorspace.ITU601
COLOR_RANGE = ColorRange.MPEG
COLOR_PRIMARIES = ColorPrimaries.SMPTE170M
COLOR_TRANSFER = ColorTrc.SMPTE170M
OPTIONS = {"preset": "ultrafast", "tune": "zerolatency", "bf": "0"}
KEY_FRAME_INTERVAL_S = 30  # for recordings that are opened in the middle; sessions use `restart`


class H264Encoder:
    """One stream, of one size and quality."""

    is_sequential = True
    needs_worker = True

    def __init__(self, encoding: Encoding, *, fps: int) -> None:
        self._max_width = encoding.preview_max_width
        self._crf = quality_to_crf(encoding.quality or DEFAULT_QUALITY)
        self._fps = fps
        self._reformatter = VideoReformatter()
        self._stream: VideoCodecContext | None = None
        self._key_frame_wanted = True
        self._codec_name = ""  # from the parameter set of the last key frame

    def max_batch_frames(self, frame_bytes: int) -> int:
        return 1

    def restart(self) -> None:
        self._key_frame_wanted = True

    def encode(self, batch: FrameBatch) -> Payload:
        (pixels,) = batch.frames
        source_height, source_width, channels = pixels.shape
        width, height = even_size(*preview_size(source_width, source_height, self._max_width))
        if self._stream is None:
            self._stream = open_stream(width, height, fps=self._fps, crf=self._crf)
        index = batch.position + batch.start
        frame = self._to_yuv(pixels, width, height)
        frame.pts = index
        frame.time_base = Fraction(1, self._fps)
        frame.pict_type = PictureType.I if self._key_frame_wanted else PictureType.NONE
        (packet,) = self._stream.encode(frame)
        self._key_frame_wanted = False
        data = bytes(packet)
        if packet.is_keyframe:
            self._codec_name = read_codec_name(data)
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
            codec=self._codec_name,
            timestamp_us=index * 1_000_000 // self._fps,
            key_frame=packet.is_keyframe,
        )
        return Payload(content_type=CONTENT_TYPE, num_frames=1, layout=layout, data=data)

    def _to_yuv(self, pixels: Frame, width: int, height: int) -> VideoFrame:
        source = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(pixels), format="rgb24")
        return self._reformatter.reformat(
            source,
            width=width,
            height=height,
            format="yuv420p",
            dst_colorspace=COLORSPACE,
            dst_color_range=COLOR_RANGE,
            threads=1,
        )


def open_stream(width: int, height: int, *, fps: int, crf: int) -> VideoCodecContext:
    stream = av.CodecContext.create("libx264", "w")
    assert isinstance(stream, VideoCodecContext)
    stream.width, stream.height = width, height
    stream.pix_fmt = "yuv420p"
    stream.framerate = Fraction(fps)
    stream.time_base = Fraction(1, fps)
    stream.gop_size = KEY_FRAME_INTERVAL_S * fps
    stream.colorspace = COLORSPACE
    stream.color_range = COLOR_RANGE
    stream.color_primaries = COLOR_PRIMARIES
    stream.color_trc = COLOR_TRANSFER
    stream.thread_count = 1  # x264's own pool would exceed the limit on worker threads
    stream.options = OPTIONS | {"crf": str(crf), "forced-idr": "1"}
    return stream


def quality_to_crf(quality: int) -> int:
    """x264's constant rate factor for a quality of 1 to 100: 90 is 20, the best is 16."""
    return min(51, 56 - quality * 2 // 5)


def even_size(width: int, height: int) -> tuple[int, int]:
    """The size rounded down to even numbers, as 4:2:0 needs them; at least 2x2."""
    return max(2, width // 2 * 2), max(2, height // 2 * 2)


def read_codec_name(data: bytes) -> str:
    """The codec's name by RFC 6381, from the parameter set in front of a key frame."""
    at = 0
    while (at := data.index(b"\0\0\1", at) + 3) and data[at] & 31 != 7:
        pass
    return f"avc1.{data[at + 1 : at + 4].hex()}"


class H264Decoder:
    """The decoder of one stream, for Python clients."""

    def __init__(self) -> None:
        self._stream = av.CodecContext.create("h264", "r")
        assert isinstance(self._stream, VideoCodecContext)
        self._stream.options = {"flags": "low_delay"}
        self._stream.thread_count = 1  # frame threads would delay frames

    def decode(self, data: bytes) -> Frames:
        """The frame of one access unit: [1, H, W, 3]."""
        frames = self._stream.decode(av.Packet(data))
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
