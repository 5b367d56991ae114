import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.codecs.delta import DeltaEncoder, restore, subtract
from transport.codecs.payload import split_chunk


def decode(frames, payloads):
    """Batch after batch, as a client does."""
    batches, previous = [], None
    for payload in payloads:
        batches.append(restore(payload.data, (payload.num_frames, *frames.shape[1:]), previous))
        previous = batches[-1][-1]
    return np.concatenate(batches)


@given(st.integers(0, 2**32 - 1), st.integers(1, 14), st.integers(1, 9), st.integers(1, 9))
def test_any_frames_are_restored_bit_for_bit(seed, num, height, width):
    """With noise, every kind of difference wraps."""
    frames = np.random.default_rng(seed).integers(0, 256, (num, height, width, 3), np.uint8)
    encoder = DeltaEncoder(max_batch_bytes=2**20)
    payloads = [encoder.encode(batch) for batch in split_chunk(frames, encoder)]
    assert np.array_equal(decode(frames, payloads), frames)


def test_differences_equal_those_of_a_loop_over_pixels():
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    slow = np.empty_like(frames)
    for t, row, column in np.ndindex(3, 4, 5):
        here = frames[t, row, column].astype(int)
        previous = frames[t - 1, row, column] if t else frames[t, row, column - 1] * (column > 0)
        slow[t, row, column] = (here - previous) % 256
    assert np.array_equal(subtract(frames, None), slow)
    assert np.array_equal(subtract(frames[1:], frames[0]), slow[1:])


def test_a_chunk_decodes_without_the_one_before(scenery):
    encoder = DeltaEncoder(max_batch_bytes=2**20)
    for chunk in (scenery(12), scenery(12)[::-1].copy()):
        payloads = [encoder.encode(batch) for batch in split_chunk(chunk, encoder)]
        assert np.array_equal(decode(chunk, payloads), chunk)


def test_it_is_smaller_than_raw(scenery):
    encoder = DeltaEncoder(max_batch_bytes=2**20)
    payloads = [encoder.encode(batch) for batch in split_chunk(scenery(12), encoder)]
    assert sum(len(payload.data) for payload in payloads) < scenery(12).nbytes / 4
    layout = payloads[0].layout
    assert (layout.encoding, layout.raw_size) == ("delta-zstd", scenery(6).nbytes)


def test_a_payload_of_another_size_is_refused(scenery):
    (batch, _) = split_chunk(scenery(12), DeltaEncoder(max_batch_bytes=2**20))
    with pytest.raises(ValueError):
        restore(DeltaEncoder(max_batch_bytes=2**20).encode(batch).data, (5, 64, 112, 3), None)
