import os

import numpy as np
import pytest

from transport.codecs.h264 import (
    H264Decoder,
    H264Encoder,
    even_size,
    quality_to_crf,
    read_codec_name,
)
from transport.codecs.payload import FrameBatch, split_chunk
from transport.wire.messages import Encoding


def encode(encoder, frames, position=0):
    return [encoder.encode(batch) for batch in split_chunk(frames, encoder, position=position)]


def unit_types(data):
    """Types of the NAL units of an Annex B stream."""
    assert data.startswith(b"\0\0\0\1")
    return [unit[0] & 31 for unit in data.split(b"\0\0\1")[1:]]


def test_every_frame_is_encoded_without_delay_and_looks_the_same(scenery, psnr):
    frames = scenery(24)
    decoder, encoder = H264Decoder(), H264Encoder(Encoding(format="h264"), fps=16)
    back = [decoder.decode(payload.data) for payload in encode(encoder, frames)]
    assert [len(one) for one in back] == [1] * 24
    assert psnr(np.concatenate(back), frames) > 33


def test_colours_are_those_of_the_frames(psnr):
    bars = np.array(
        [[255, 255, 255], [255, 255, 0], [0, 255, 255], [0, 255, 0], [255, 0, 255], [255, 0, 0]],
        np.uint8,
    )
    frame = np.repeat(np.tile(bars, (64, 1, 1)), 16, axis=1)[None]
    (payload,) = encode(H264Encoder(Encoding(format="h264", quality=100), fps=16), frame)
    assert psnr(H264Decoder().decode(payload.data), frame) > 25  # edges lose colour: 4:2:0
    inside = H264Decoder().decode(payload.data)[0, 32, 8::16].astype(int)
    assert np.abs(inside - bars).max() <= 6


def test_a_stream_begins_with_a_key_frame_and_has_others_on_request(scenery):
    encoder = H264Encoder(Encoding(format="h264"), fps=16)
    keys = [payload.layout.key_frame for payload in encode(encoder, scenery(12))]
    encoder.restart()
    again = encode(encoder, scenery(12), position=12)
    assert keys == [payload.layout.key_frame for payload in again] == [True] + [False] * 11
    assert {7, 8, 5} <= set(unit_types(again[0].data)), "parameter sets and an IDR frame"
    assert set(unit_types(again[1].data)) == {1}
    assert len(H264Decoder().decode(again[0].data)) == 1, "a new decoder can begin here"


def test_no_frame_is_bidirectional(scenery):
    """Each access unit decodes to the frame of the same index."""
    frames = scenery(12)
    decoder = H264Decoder()
    payloads = encode(H264Encoder(Encoding(format="h264", quality=100), fps=16), frames)
    for payload, frame in zip(payloads, frames, strict=True):
        error = np.abs(decoder.decode(payload.data)[0].astype(int) - frame).mean()
        assert error < 4


def test_timestamps_are_the_worlds_media_clock(scenery):
    payloads = encode(H264Encoder(Encoding(format="h264"), fps=16), scenery(3), position=32)
    stamps = [payload.layout.timestamp_us for payload in payloads]
    assert stamps == [2_000_000, 2_062_500, 2_125_000]


def test_the_codec_has_the_name_that_browsers_use(scenery):
    payloads = encode(H264Encoder(Encoding(format="h264"), fps=16), scenery(2))
    assert {payload.layout.codec for payload in payloads} == {read_codec_name(payloads[0].data)}
    assert payloads[0].layout.codec.startswith("avc1.42c0")  # constrained baseline


def test_a_preview_is_smaller_and_even(scenery):
    encoder = H264Encoder(Encoding(format="h264", preview_max_width=57), fps=16)
    (payload,) = encode(encoder, scenery(1))
    layout = payload.layout
    assert (layout.width, layout.height, layout.source_width) == (56, 32, 112)
    assert H264Decoder().decode(payload.data).shape == (1, 32, 56, 3)


def test_frames_of_an_odd_size_lose_their_last_row_and_column(scenery):
    encoder = H264Encoder(Encoding(format="h264"), fps=16)
    (payload,) = encode(encoder, np.ascontiguousarray(scenery(1)[:, :63, :111]))
    assert (payload.layout.width, payload.layout.height) == (110, 62)
    assert even_size(1, 1) == (2, 2)


@pytest.mark.parametrize("quality, crf", [(1, 51), (50, 36), (90, 20), (100, 16)])
def test_quality_sets_the_rate_factor_of_x264(quality, crf):
    assert quality_to_crf(quality) == crf


def test_a_better_quality_is_larger(scenery):
    sizes = []
    for quality in (30, 60, 90):
        encoder = H264Encoder(Encoding(format="h264", quality=quality), fps=16)
        sizes.append(sum(len(payload.data) for payload in encode(encoder, scenery(12))))
    assert sizes == sorted(set(sizes))


def test_a_frame_with_four_channels_raises():
    encoder = H264Encoder(Encoding(format="h264"), fps=16)
    four_channels = np.zeros((1, 64, 112, 4), np.uint8)
    with pytest.raises(ValueError):
        encoder.encode(FrameBatch(chunk=four_channels, start=0, stop=1, position=0))


def test_an_encoder_has_no_threads_of_its_own(scenery):
    """The worker threads are the only bound on encoding."""
    before = len(os.listdir("/proc/self/task"))
    encoders = [H264Encoder(Encoding(format="h264"), fps=16) for _ in range(8)]
    for encoder in encoders:
        encode(encoder, scenery(1))
    assert len(os.listdir("/proc/self/task")) <= before + 1
