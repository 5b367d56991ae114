"""Payloads to frames, for Python clients."""

import io
from typing import Any

import msgspec
import numpy as np
import simplejpeg
from PIL import Image

from transport.codecs.delta import restore
from transport.codecs.h264 import H264Decoder
from transport.codecs.payload import Frame, Frames
from transport.wire.messages import EncodedLayout, RawLayout


class Decoder:
    """The decoder of one session. Batches come in order: some build on the one before."""

    def __init__(self) -> None:
        self._last_frame: Frame | None = None
        self._h264 = H264Decoder()

    def decode(self, header: dict[str, Any], payload: bytes) -> Frames:
        """The frames of one batch, uint8 [T, H, W, 3]. `header` is the map as it was received.

        Raises msgspec.ValidationError for a header without the layout of its encoding.
        """
        match header["encoding"]:
            case "raw":
                frames = np.frombuffer(payload, np.uint8).reshape(frames_shape(header))
            case "delta-zstd":
                previous = self._last_frame if header["frame_batch_index"] else None
                frames = restore(payload, frames_shape(header), previous)
            case "h264":
                frames = self._h264.decode(payload)
            case _:
                pictures = split_pictures(header, payload)
                frames = np.stack([decode_picture(picture) for picture in pictures])
        self._last_frame = frames[-1]
        return frames


def frames_shape(header: dict[str, Any]) -> tuple[int, int, int, int]:
    layout = msgspec.convert(header, RawLayout)
    return header["num_frames"], layout.height, layout.width, layout.channels


def split_pictures(header: dict[str, Any], payload: bytes) -> list[bytes]:
    """The JPEG or WebP file of each frame; they lie back to back."""
    lengths = msgspec.convert(header, EncodedLayout).payload_lengths
    ends = np.cumsum(lengths)
    return [payload[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def decode_picture(data: bytes) -> Frame:
    """A JPEG or WebP file to uint8 [H, W, 3]."""
    if data.startswith(b"\xff\xd8"):
        pixels: Frame = simplejpeg.decode_jpeg(data, colorspace="RGB")
        return pixels
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
