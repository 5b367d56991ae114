import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.codecs.delta import DeltaEncoder, restore, subtract
from transport.codecs.payload import split


def decode(frames, payloads):
    """Piece after piece, as a client does."""
    pieces, before = [], None
    for payload in payloads:
        pieces.append(restore(payload.data, (payload.num_frames, *frames.shape[1:]), before))
        before = pieces[-1][-1]
    return np.concatenate(pieces)


@given(st.integers(0, 2**32 - 1), st.integers(1, 14), st.integers(1, 9), st.integers(1, 9))
def test_any_frames_come_back_bit_for_bit(seed, num, height, width):
    """Noise, so that every difference wraps."""
    frames = np.random.default_rng(seed).integers(0, 256, (num, height, width, 3), np.uint8)
    encoder = DeltaEncoder(max_bytes=2**20)
    payloads = [encoder.encode(piece) for piece in split(frames, encoder)]
    assert np.array_equal(decode(frames, payloads), frames)


def test_differences_are_those_of_the_slow_twin():
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    slow = np.empty_like(frames)
    for t, row, column in np.ndindex(3, 4, 5):
        here = frames[t, row, column].astype(int)
        before = frames[t - 1, row, column] if t else frames[t, row, column - 1] * (column > 0)
        slow[t, row, column] = (here - before) % 256
    assert np.array_equal(subtract(frames, None), slow)
    assert np.array_equal(subtract(frames[1:], frames[0]), slow[1:])


def test_a_chunk_needs_nothing_of_the_one_before(scenery):
    encoder = DeltaEncoder(max_bytes=2**20)
    for chunk in (scenery(12), scenery(12)[::-1].copy()):
        payloads = [encoder.encode(piece) for piece in split(chunk, encoder)]
        assert np.array_equal(decode(chunk, payloads), chunk)


def test_it_is_smaller_than_raw(scenery):
    encoder = DeltaEncoder(max_bytes=2**20)
    payloads = [encoder.encode(piece) for piece in split(scenery(12), encoder)]
    assert sum(len(payload.data) for payload in payloads) < scenery(12).nbytes / 4
    layout = payloads[0].layout
    assert (layout.encoding, layout.raw_size) == ("delta-zstd", scenery(6).nbytes)


def test_a_payload_of_another_size_is_refused(scenery):
    (piece, _) = split(scenery(12), DeltaEncoder(max_bytes=2**20))
    with pytest.raises(ValueError):
        restore(DeltaEncoder(max_bytes=2**20).encode(piece).data, (5, 64, 112, 3), None)
