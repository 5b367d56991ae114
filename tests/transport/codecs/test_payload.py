import numpy as np
import pytest
from msgspec import msgpack

from transport.codecs import open_encoder
from transport.codecs.payload import build_header, preview_size, split_chunk
from transport.wire.messages import Encoding, encode_batch


def messages_of(frames, name):
    """The parts of each message."""
    encoder = open_encoder(Encoding(format=name), fps=16)
    batches = split_chunk(frames, encoder, position=9)
    messages = []
    for index, batch in enumerate(batches):
        payload = encoder.encode(batch)
        header = build_header(
            payload, request_id="s-4", chunk_index=4, index=index, num_batches=len(batches)
        )
        messages.append(encode_batch(header, payload.layout, payload.data))
    return messages


@pytest.mark.parametrize("num, sizes", [(9, [9]), (12, [12]), (16, [16]), (33, [16, 16, 1])])
def test_frames_are_split_in_order(num, sizes):
    frames = np.arange(num * 12, dtype=np.uint8).reshape(num, 2, 2, 3)
    batches = split_chunk(frames, open_encoder(Encoding(format="raw"), fps=16, extensions=False))
    assert [len(batch.frames) for batch in batches] == sizes
    assert np.array_equal(np.concatenate([batch.frames for batch in batches]), frames)


@pytest.mark.parametrize(
    "name, sizes",
    [
        ("raw", [12]),
        ("jpeg", [6, 6]),
        ("webp", [6, 6]),
        ("delta-zstd", [6, 6]),
        ("h264", [1] * 12),
    ],
)
def test_a_chunk_is_as_many_messages_as_the_wire_defines(scenery, name, sizes):
    headers = [msgpack.decode(parts[0]) for parts in messages_of(scenery(), name)]
    num = len(sizes)
    assert [header["num_frames"] for header in headers] == sizes
    assert [header["frame_batch_index"] for header in headers] == list(range(num))
    assert [header["num_frame_batches"] for header in headers] == [num] * num
    assert [header["is_final_frame_batch"] for header in headers] == [False] * (num - 1) + [True]
    assert {header["encoding"] for header in headers} == {name}


def test_a_raw_chunk_is_one_header_and_the_array_itself(scenery):
    frames = scenery()
    ((first, pixels),) = messages_of(frames, "raw")
    header = msgpack.decode(first)
    assert header["type"] == "frame_batch_header"
    assert (header["request_id"], header["chunk_index"], header["num_frames"]) == ("s-4", 4, 12)
    assert (header["total_size"], header["content_type"]) == (258_048, "application/x-raw-rgb")
    assert header["is_final_frame_batch"] is True
    assert np.shares_memory(np.frombuffer(pixels, np.uint8), frames)
    assert len(pixels) == 258_048


def test_small_payloads_travel_inside_their_header(scenery):
    for (data,) in messages_of(scenery(), "jpeg"):
        fields = msgpack.decode(data)
        assert fields["type"] == "frame_batch"
        assert len(fields["payload"]) == sum(fields["payload_lengths"]) == fields["total_size"]


@pytest.mark.parametrize(
    "max_width, size", [(None, (112, 64)), (200, (112, 64)), (112, (112, 64)), (1, (1, 1))]
)
def test_a_preview_is_never_larger_than_the_frames(max_width, size):
    assert preview_size(112, 64, max_width) == size


@pytest.mark.parametrize(
    "extensions, sizes", [(False, [12]), (True, [2] * 6)], ids=["plain", "extensions"]
)
def test_large_raw_frames_travel_in_smaller_batches_with_extensions(extensions, sizes):
    """Two frames of 832x480 fit 3 MiB, and a frame is never cut."""
    encoder = open_encoder(Encoding(format="raw"), fps=16, extensions=extensions)
    batches = split_chunk(np.zeros((12, 480, 832, 3), np.uint8), encoder)
    assert [len(batch.frames) for batch in batches] == sizes
    assert len(split_chunk(np.zeros((2, 1440, 2560, 3), np.uint8), encoder)) == 2 - (not extensions)
