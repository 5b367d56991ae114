"""Frames one by one: raw, JPEG, WebP. Nothing is remembered from one to the next."""

import io
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image

from transport.codecs.payload import Frame, Payload, Piece, preview_size
from transport.wire.messages import EncodedLayout, Encoding

WEBP_METHOD = 0  # the fastest of libwebp's seven


class PictureEncoder:
    """A compressed picture a frame, back to back."""

    in_order = False
    takes_long = True

    def __init__(self, encoding: Encoding) -> None:
        self._max_width = encoding.preview_max_width
        self._name: Literal["jpeg", "webp"] = "webp" if encoding.format == "webp" else "jpeg"
        self._encode: Callable[[Frame], bytes]
        if self._name == "webp":
            self._encode = partial(encode_webp, quality=encoding.quality)
        else:
            self._encode = partial(encode_jpeg, quality=encoding.quality, chroma=encoding.chroma)

    def frames_per_message(self, frame_bytes: int) -> int:
        return 6

    def encode(self, piece: Piece) -> Payload:
        _, source_height, source_width, channels = piece.frames.shape
        width, height = preview_size(source_width, source_height, self._max_width)
        pictures = [self._encode(resize(frame, width, height)) for frame in piece.frames]
        layout = EncodedLayout(
            format=self._name,
            width=width,
            height=height,
            channels=channels,
            bytes_per_frame=source_width * source_height * channels,
            encoding=self._name,
            source_width=source_width,
            source_height=source_height,
            preview_width=width,
            preview_height=height,
            payload_lengths=[len(picture) for picture in pictures],
        )
        return Payload(f"image/{self._name}", len(pictures), layout, b"".join(pictures))

    def restart(self) -> None:
        """Every frame is decodable on its own."""


def encode_jpeg(frame: Frame, *, quality: int, chroma: str) -> bytes:
    data: bytes = simplejpeg.encode_jpeg(frame, quality=quality, colorsubsampling=chroma)
    return data


def encode_webp(frame: Frame, *, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "WEBP", quality=quality, method=WEBP_METHOD)
    return file.getvalue()


def resize(frame: Frame, width: int, height: int) -> Frame:
    if frame.shape[:2] == (height, width):
        return frame
    picture = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture)
