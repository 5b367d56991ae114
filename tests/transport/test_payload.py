import io

import numpy as np
import pytest
import simplejpeg
from msgspec import msgpack
from PIL import Image

from transport.messages import Encoding
from transport.payload import build, build_chunk, preview_size, split


def scenery(num_frames=12, height=64, width=112):
    """Smooth ramps that move: easy for a codec, as the picture of a world is."""
    down, across = np.mgrid[0:height, 0:width]
    frames = [
        np.stack([across * 2, down * 3, (across + down + 4 * t) % 200], axis=-1)
        for t in range(num_frames)
    ]
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


def chunk(frames, encoding):
    return build_chunk(
        frames, encoding, request_id="s-4", chunk_index=4, event_id=None, applied=None
    )


def psnr(one, other):
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return 10 * np.log10(255**2 / error)


def test_raw_is_the_pixels_themselves():
    frames = scenery()
    payload = build(frames, Encoding("raw"))
    assert bytes(payload.data) == frames.tobytes()
    assert np.shares_memory(np.frombuffer(payload.data, np.uint8), frames)


def test_raw_takes_frames_that_are_read_only_or_strided():
    frames = scenery()
    frames.flags.writeable = False
    assert bytes(build(frames, Encoding("raw")).data) == frames.tobytes()
    assert bytes(build(frames[::2], Encoding("raw")).data) == frames[::2].tobytes()


def test_the_raw_layout_says_what_the_bytes_are():
    layout = build(scenery(), Encoding("raw")).layout
    assert (layout.format, layout.encoding) == ("rgb24", "raw")
    assert (layout.width, layout.height, layout.channels) == (112, 64, 3)
    assert (layout.bytes_per_frame, layout.raw_size) == (21_504, 258_048)


def test_jpeg_looks_like_the_frames():
    frames = scenery()
    payload = build(frames, Encoding("jpeg"))
    ends = np.cumsum(payload.layout.payload_lengths)
    pictures = [
        simplejpeg.decode_jpeg(payload.data[end - length : end])
        for end, length in zip(ends, payload.layout.payload_lengths, strict=True)
    ]
    assert ends[-1] == len(payload.data)
    assert psnr(np.stack(pictures), frames) > 35


def test_a_lower_quality_is_smaller():
    sizes = [len(build(scenery(), Encoding("jpeg", quality)).data) for quality in (40, 95)]
    assert sizes[0] < sizes[1]


def test_a_preview_is_smaller_and_both_sizes_are_told():
    payload = build(scenery(2), Encoding("jpeg", preview_max_width=56))
    layout = payload.layout
    assert (layout.width, layout.height) == (layout.preview_width, layout.preview_height)
    assert (layout.width, layout.height) == (56, 32)
    assert (layout.source_width, layout.source_height) == (112, 64)
    picture = Image.open(io.BytesIO(payload.data[: layout.payload_lengths[0]]))
    assert picture.size == (56, 32)


@pytest.mark.parametrize(
    "max_width, size", [(None, (112, 64)), (200, (112, 64)), (112, (112, 64)), (1, (1, 1))]
)
def test_a_preview_is_never_larger_than_the_frames(max_width, size):
    assert preview_size(112, 64, max_width) == size


@pytest.mark.parametrize("num, sizes", [(9, [9]), (12, [12]), (16, [16]), (33, [16, 16, 1])])
def test_frames_are_split_in_order(num, sizes):
    frames = np.arange(num * 12, dtype=np.uint8).reshape(num, 2, 2, 3)
    pieces = split(frames, 16)
    assert [len(piece) for piece in pieces] == sizes
    assert np.array_equal(np.concatenate(pieces), frames)


def test_a_raw_chunk_is_one_header_and_one_payload():
    frames = scenery()
    (batch,) = chunk(frames, Encoding("raw"))
    header = msgpack.decode(batch.parts[0])
    assert header["type"] == "frame_batch_header"
    assert (header["request_id"], header["chunk_index"], header["num_frames"]) == ("s-4", 4, 12)
    assert (header["total_size"], header["content_type"]) == (258_048, "application/x-raw-rgb")
    assert header["is_final_frame_batch"] is True
    assert batch.parts[1] == frames.tobytes()
    assert type(batch.parts[1]) is bytes  # a proxy pickles it


def test_a_jpeg_chunk_is_batches_of_six():
    batches = [msgpack.decode(batch.parts[0]) for batch in chunk(scenery(), Encoding("jpeg"))]
    assert [batch["type"] for batch in batches] == ["frame_batch"] * 2
    assert [batch["num_frames"] for batch in batches] == [6, 6]
    assert [batch["frame_batch_index"] for batch in batches] == [0, 1]
    assert [batch["num_frame_batches"] for batch in batches] == [2, 2]
    assert [batch["is_final_frame_batch"] for batch in batches] == [False, True]
    assert all(len(batch["payload"]) == sum(batch["payload_lengths"]) for batch in batches)
