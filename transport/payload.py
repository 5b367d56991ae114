"""Frames to payloads. Runs in worker threads: simplejpeg, Pillow and copies let go of the GIL."""

import numpy as np
import simplejpeg
from msgspec import Struct
from numpy.typing import NDArray
from PIL import Image

from transport.messages import (
    JPEG_CONTENT_TYPE,
    RAW_CONTENT_TYPE,
    AppliedControls,
    EncodedLayout,
    Encoding,
    FrameBatchHeader,
    Layout,
    RawLayout,
    encode_batch,
)

Frames = NDArray[np.uint8]  # [T, H, W, 3]

FRAMES_PER_MESSAGE = {"raw": 16, "jpeg": 6}


class Payload(Struct, frozen=True):
    """Consecutive frames, ready to be sent."""

    content_type: str
    num_frames: int
    layout: Layout
    data: bytes | memoryview


class Batch(Struct, frozen=True):
    """What goes on the wire for one payload: one binary frame, or a header and a bare one."""

    parts: list[bytes]
    content_type: str
    num_payload_bytes: int


def build_chunk(
    frames: Frames,
    encoding: Encoding,
    *,
    request_id: str,
    chunk_index: int,
    event_id: int | None,
    applied: AppliedControls | None,
) -> list[Batch]:
    """The messages of one chunk, in order."""
    pieces = split(frames, FRAMES_PER_MESSAGE[encoding.format])
    batches = []
    for index, piece in enumerate(pieces):
        payload = build(piece, encoding)
        header = FrameBatchHeader(
            request_id=request_id,
            chunk_index=chunk_index,
            content_type=payload.content_type,
            num_frames=payload.num_frames,
            total_size=len(payload.data),
            frame_batch_index=index,
            num_frame_batches=len(pieces),
            is_final_frame_batch=index == len(pieces) - 1,
            event_id=event_id,
        )
        parts = encode_batch(header, payload.layout, payload.data, applied=applied)
        batches.append(Batch(parts, payload.content_type, len(payload.data)))
    return batches


def split(frames: Frames, per_message: int) -> list[Frames]:
    """Views of at most `per_message` frames each."""
    return [frames[start : start + per_message] for start in range(0, len(frames), per_message)]


def build(frames: Frames, encoding: Encoding) -> Payload:
    """The payload of one message; `data` of raw frames is a view of the array itself."""
    frames = np.ascontiguousarray(frames)
    return _raw(frames) if encoding.format == "raw" else _jpeg(frames, encoding)


def preview_size(width: int, height: int, max_width: int | None) -> tuple[int, int]:
    """(width, height) of the pictures that are sent: never wider, same aspect."""
    if max_width is None or width <= max_width:
        return width, height
    return max_width, max(1, round(height * max_width / width))


def _raw(frames: Frames) -> Payload:
    num_frames, height, width, channels = frames.shape
    layout = RawLayout(
        format="rgb24",
        width=width,
        height=height,
        channels=channels,
        bytes_per_frame=height * width * channels,
        raw_size=frames.nbytes,
        encoding="raw",
    )
    return Payload(RAW_CONTENT_TYPE, num_frames, layout, frames.reshape(-1).data)


def _jpeg(frames: Frames, encoding: Encoding) -> Payload:
    num_frames, source_height, source_width, _ = frames.shape
    width, height = preview_size(source_width, source_height, encoding.preview_max_width)
    if (width, height) != (source_width, source_height):
        frames = np.stack([_resize(frame, width, height) for frame in frames])
    pictures = [
        simplejpeg.encode_jpeg(frame, quality=encoding.quality, colorsubsampling="420")
        for frame in frames
    ]
    layout = EncodedLayout(
        format="jpeg",
        encoding="jpeg",
        source_width=source_width,
        source_height=source_height,
        preview_width=width,
        preview_height=height,
        width=width,
        height=height,
        payload_lengths=[len(picture) for picture in pictures],
    )
    return Payload(JPEG_CONTENT_TYPE, num_frames, layout, b"".join(pictures))


def _resize(frame: Frames, width: int, height: int) -> Frames:
    picture = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture)
