"""Payloads back to frames, for clients in Python."""

import io
from typing import Any

import msgspec
import numpy as np
import simplejpeg
from PIL import Image

from transport.codecs.delta import restore
from transport.codecs.h264 import H264Decoder
from transport.codecs.payload import Frames
from transport.wire.messages import EncodedLayout, RawLayout


class Decoder:
    """One session's: batches come in order, because some build on what came before."""

    def __init__(self) -> None:
        self._last: Frames | None = None  # frame of the batch before
        self._video = H264Decoder()

    def decode(self, header: dict[str, Any], payload: bytes) -> Frames:
        """The frames of one batch, uint8 [T, H, W, 3]; `header` as it came, a map.

        Raises msgspec.ValidationError for a header that has no such layout.
        """
        match header["encoding"]:
            case "raw":
                frames = np.frombuffer(payload, np.uint8).reshape(shape_of(header))
            case "delta-zstd":
                before = self._last if header["frame_batch_index"] else None
                frames = restore(payload, shape_of(header), before)
            case "h264":
                frames = self._video.decode(payload)
            case _:
                frames = np.stack([decode_picture(one) for one in pictures_of(header, payload)])
        self._last = frames[-1]
        return frames


def shape_of(header: dict[str, Any]) -> tuple[int, int, int, int]:
    raw = msgspec.convert(header, RawLayout)
    return header["num_frames"], raw.height, raw.width, raw.channels


def pictures_of(header: dict[str, Any], payload: bytes) -> list[bytes]:
    """The compressed pictures, which lie back to back."""
    lengths = msgspec.convert(header, EncodedLayout).payload_lengths
    ends = np.cumsum(lengths)
    return [payload[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def decode_picture(data: bytes) -> Frames:
    """A JPEG or WebP file to uint8 [H, W, 3]."""
    if data.startswith(b"\xff\xd8"):
        pixels: Frames = simplejpeg.decode_jpeg(data, colorspace="RGB")
        return pixels
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
