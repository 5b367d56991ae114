"""JPEG and WebP: each frame is one picture, independent of the others."""

import io
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image

from transport.codecs.payload import DEFAULT_QUALITY, Frame, FrameBatch, Payload, preview_size
from transport.wire.messages import EncodedLayout, Encoding

MAX_BATCH_FRAMES = 6
WEBP_METHOD = 0  # the fastest of libwebp's seven


class PictureEncoder:
    """A payload is the JPEG or WebP files of its frames, back to back."""

    is_sequential = False
    needs_worker = True

    def __init__(self, encoding: Encoding) -> None:
        self._max_width = encoding.preview_max_width
        self._name: Literal["jpeg", "webp"] = "webp" if encoding.format == "webp" else "jpeg"
        self._encode: Callable[[Frame], bytes]
        quality = encoding.quality or DEFAULT_QUALITY
        if self._name == "webp":
            self._encode = partial(encode_webp, quality=quality)
        else:
            self._encode = partial(encode_jpeg, quality=quality, chroma=encoding.chroma or "420")

    def max_batch_frames(self, frame_bytes: int) -> int:
        return MAX_BATCH_FRAMES

    def encode(self, batch: FrameBatch) -> Payload:
        _, source_height, source_width, channels = batch.frames.shape
        width, height = preview_size(source_width, source_height, self._max_width)
        pictures = [self._encode(resize(frame, width, height)) for frame in batch.frames]
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
        return Payload(
            content_type=f"image/{self._name}",
            num_frames=len(pictures),
            layout=layout,
            data=b"".join(pictures),
        )

    def restart(self) -> None:
        """Every frame can be decoded on its own."""


def encode_jpeg(frame: Frame, *, quality: int, chroma: str) -> bytes:
    data: bytes = simplejpeg.encode_jpeg(frame, quality=quality, colorsubsampling=chroma)
    return data


def encode_webp(frame: Frame, *, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "WEBP", quality=quality, method=WEBP_METHOD)
    return file.getvalue()


def resize(frame: Frame, width: int, height: int) -> Frame:
    """The frame itself where it has this size already."""
    if frame.shape[:2] == (height, width):
        return frame
    resized = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized)
