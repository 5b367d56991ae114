import pytest
import torch
from msgspec.structs import replace

from lingbot.config import ModelConfig
from lingbot.dit.kv_cache import KVWindow

SHAPE = ModelConfig(dim=4, ffn_dim=4, freq_dim=4, num_heads=1, num_layers=1, text_dim=4, text_len=1)


def make_window(window, sink, **options):
    return KVWindow.empty(
        **{"config": SHAPE, "window": window, "sink": sink, "chunk": 3, "tokens": 2,
           "device": torch.device("cpu"), "dtype": torch.float32, **options}
    )  # fmt: skip


def numbered(first):
    """Keys of three latent frames from `first` on, each filled with its own number."""
    return torch.arange(first, first + 3).float().view(1, 3, 1, 1, 1).expand(1, 3, 2, 1, 4)


def seen_by_chunk(window, index):
    """The latent frames that chunk `index` attends to."""
    for first in range(0, 3 * index + 3, 3):
        window.for_chunk(3).attend(0, numbered(first), numbered(first), numbered(first))
        window.advance(3)
    filled = min(window.num_frames, window.window)
    return sorted(window.k_NBFTHD[0, 0, :filled, 0, 0, 0].tolist())


@pytest.mark.parametrize(
    "window, sink, chunk, seen",
    [
        (6, 3, 0, [0, 1, 2]),
        (6, 3, 4, [0, 1, 2, 12, 13, 14]),
        (7, 1, 1, [0, 1, 2, 3, 4, 5]),
        (7, 1, 2, [0, 3, 4, 5, 6, 7, 8]),
        (7, 1, 3, [0, 6, 7, 8, 9, 10, 11]),
        (9, 0, 5, list(range(9, 18))),
        (12, 3, 9, [0, 1, 2, *range(21, 30)]),
    ],
)
def test_sink_and_most_recent_frames_are_seen(window, sink, chunk, seen):
    assert seen_by_chunk(make_window(window, sink), chunk) == seen


def test_passes_of_one_chunk_overwrite_each_other():
    window = make_window(6, 0)
    window.for_chunk(3).write(0, numbered(0), numbered(0))
    window.advance(3)
    chunk = window.for_chunk(3)
    for number in (70, 80, 3):
        chunk.attend(0, numbered(number), numbered(number), numbered(number))
    assert window.k_NBFTHD[0, 0, :, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert window.num_frames == 3


def test_window_must_hold_sink_and_chunk():
    with pytest.raises(ValueError, match=r"window 5 must hold the sink \(3\) and one chunk \(3\)"):
        make_window(5, 3)


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_each_rank_keeps_its_share_of_the_heads_and_no_more(num_ranks):
    config = replace(SHAPE, dim=16, num_heads=4, num_layers=3)
    window = make_window(9, 3, config=config, tokens=5, num_ranks=num_ranks)
    for kept in (window.k_NBFTHD, window.v_NBFTHD):
        assert kept.shape == (3, 1, 9, 5, 4 // num_ranks, 4)
        assert kept.untyped_storage().nbytes() == 3 * 9 * 5 * 16 * 4 // num_ranks
        one_head = kept[0, 0, :, :, 0]
        assert one_head.is_contiguous() and one_head.flatten(0, 1).shape == (9 * 5, 4)
    assert (window.window, window.num_tokens) == (9, 5)


def test_an_emptied_window_frees_its_memory():
    window = make_window(6, 3)
    window.for_chunk(3).attend(0, numbered(0), numbered(0), numbered(0))
    empty = window.emptied()
    assert (empty.window, empty.sink) == (0, 3)
    assert empty.k_NBFTHD.untyped_storage().nbytes() == 0
    assert empty.v_NBFTHD.untyped_storage().nbytes() == 0
