import pytest
import torch
from msgspec.structs import replace

from lingbot.config import ModelConfig
from lingbot.dit.kv_cache import KVWindow
from lingbot.dit.layers import apply_rope, move_back, rope_freqs

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


HEADS = ModelConfig(
    dim=64, ffn_dim=4, freq_dim=4, num_heads=2, num_layers=2, text_dim=4, text_len=1
)
GRID = (1, 2)


def rotated(x, positions):
    """x [1, F, 2, 2, 32] at these positions of latent frames."""
    return apply_rope(x, rope_freqs(positions, grid=GRID, head_dim=32))


def walk(window, num_chunks, *, seed=0):
    """Attend to chunks of random q, k, v; the last chunk's q, k, v, rope and result, by layer."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_chunks):
        window.make_room(3)
        positions, chunk = window.next_positions(3), window.for_chunk(3)
        seen = []
        for layer in range(HEADS.num_layers):
            q, k, v = torch.randn(3, 1, 3, 2, 2, 32, generator=generator)
            q, k = rotated(q, positions), rotated(k, positions)
            seen.append(chunk.attend(layer, q, k, v))
        window.advance(3)
    return torch.stack(seen)


@pytest.mark.parametrize("head_dim", [12, 32, 128])
def test_moving_keys_back_equals_rotating_them_at_the_earlier_position(head_dim):
    """The slow twin rotates the keys that had not been rotated yet."""
    k = torch.randn(1, 3, 2, 2, head_dim)
    late, early = (
        rope_freqs(torch.arange(3) + first, grid=GRID, head_dim=head_dim) for first in (1021, 6)
    )
    moved = apply_rope(k, late)
    move_back(moved, 1015)
    torch.testing.assert_close(moved, apply_rope(k, early), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_moving_back_at_once_equals_two_steps(dtype, tolerance):
    k = torch.randn(1, 3, 2, 2, 32).to(dtype)
    once, twice = k.clone(), k.clone()
    move_back(once, 1000)
    move_back(twice, 300)
    move_back(twice, 700)
    assert once.dtype == dtype and not torch.equal(once, k)
    torch.testing.assert_close(once, twice, rtol=tolerance, atol=tolerance)


def test_attention_between_frames_of_the_ring_does_not_change():
    """Without a sink nothing changes at all; the slow twin has positions for every frame."""
    options = {"config": HEADS, "chunk": 3}
    short = make_window(9, 0, max_positions=20, **options)
    endless = make_window(9, 0, max_positions=10_000, **options)
    for num_chunks in (6, 1, 4, 1, 5):
        torch.testing.assert_close(
            walk(short, num_chunks), walk(endless, num_chunks), rtol=1e-4, atol=1e-4
        )
    assert short.moved_back > 20 and endless.moved_back == 0


def test_the_sink_keeps_its_keys_and_the_ring_follows_it():
    window = make_window(12, 3, config=HEADS, max_positions=30)
    walk(window, 10)
    assert window.moved_back == 0  # 30 latent frames are at positions 0..29
    before = window.k_NBFTHD.clone()
    window.make_room(3)
    assert torch.equal(window.k_NBFTHD[:, :, :3], before[:, :, :3])
    assert window.next_positions(3).tolist() == [9, 10, 11]  # as when the window filled up
    expected = before[:, :, 3:]
    move_back(expected, 21)
    assert torch.equal(window.k_NBFTHD[:, :, 3:], expected)
    window.make_room(3)
    assert window.moved_back == 21


def test_below_the_limit_no_bit_changes():
    window, endless = (make_window(9, 3, config=HEADS, max_positions=limit) for limit in (24, 1024))
    assert torch.equal(walk(window, 8), walk(endless, 8))
    assert torch.equal(window.k_NBFTHD, endless.k_NBFTHD)


@pytest.mark.parametrize("window, sink, limit", [(9, 3, 9), (7, 1, 11), (12, 3, 1024)])
def test_positions_stay_below_the_limit_in_the_same_memory(window, sink, limit):
    kept = make_window(window, sink, config=HEADS, max_positions=limit)
    memory = kept.k_NBFTHD.data_ptr()
    positions = []
    for _ in range(400):
        kept.make_room(3)
        positions += kept.next_positions(3).tolist()
        kept.for_chunk(3)
        kept.advance(3)
    assert max(positions) == limit - 1 - (limit - window) % 3 and min(positions) == 0
    assert kept.num_frames == 1200 and kept.k_NBFTHD.data_ptr() == memory


def test_a_window_needs_a_position_for_each_frame():
    with pytest.raises(ValueError, match="window 9 must be at most max_positions 8"):
        make_window(9, 3, max_positions=8)
