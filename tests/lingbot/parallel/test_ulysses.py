"""Several ranks against one, in real processes.

One run of the processes checks all functions marked `claim`, on every rank. Each is then a case of
`test_on_several_ranks`.
"""

import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from lingbot.dit.kv_cache import KVWindow, ShardedWindow
from lingbot.errors import LingbotError
from lingbot.parallel.process_group import spawn_ranks
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup
from lingbot.verify.folder import collect
from tests.lingbot.toy import SHAPE, WALK, make_engine, make_spec

GOLDEN = Path(__file__).parents[2] / "golden"
TOKENS = 6  # per latent frame of the toy world: 2, 2, 1 and 1 for four ranks

CLAIMS = {}


def claim(check):
    CLAIMS[check.__name__] = check
    return check


def check_all(group):
    """The tracebacks of each claim on all ranks; '' for a claim that holds."""
    failures = {}
    for name, check in CLAIMS.items():
        failure = ""
        try:
            check(group)
        except Exception:
            failure = f"rank {group.rank}: {traceback.format_exc()}"
        by_rank = [""] * group.num_ranks
        dist.all_gather_object(by_rank, failure)
        failures[name] = "\n".join(filter(None, by_rank))
    return failures


def numbered(num_tokens, *, dtype=torch.float32):
    """[B, F, T, H, D] of distinct numbers, in bfloat16 too."""
    bits = torch.arange(2 * num_tokens * 4 * 3, dtype=torch.int16).view(1, 2, num_tokens, 4, 3)
    return bits.view(torch.bfloat16) if dtype == torch.bfloat16 else bits.to(dtype)


def heads_of(group, x, *, dim):
    return x.chunk(group.num_ranks, dim=dim)[group.rank]


KINDS = [(num, dtype) for num in (4, 6, 7, 28) for dtype in (torch.float32, torch.bfloat16)]


@claim
def sharded_tokens_are_gathered_in_order(group):
    for num_tokens, dtype in KINDS:
        x = numbered(num_tokens, dtype=dtype).flatten(3)
        counts, own = group.split(num_tokens), group.shard(x)
        assert counts == sorted(counts, reverse=True) and counts[0] - counts[-1] <= 1
        assert own.shape[2] == counts[group.rank]
        assert torch.equal(group.gather(own, num_tokens=num_tokens), x)


@claim
def heads_have_all_tokens_and_tokens_all_heads(group):
    for num_tokens, dtype in KINDS:
        q = numbered(num_tokens, dtype=dtype)
        for tensors in ((q, -q, q * 2), (q, -q), (q,)):
            exchanged = group.to_heads(*map(group.shard, tensors), num_tokens=num_tokens)
            for ours, whole in zip(exchanged, tensors, strict=True):
                assert torch.equal(ours, heads_of(group, whole, dim=3))
                assert torch.equal(group.to_tokens(ours), group.shard(whole))


@claim
def a_sharded_window_equals_a_whole_one(group):
    """Seven tokens and five chunks: the window of nine latent frames wraps, its keys turn back."""
    options = {"window": 9, "sink": 3, "chunk": 3, "tokens": 7, "max_positions": 12}
    options |= {"device": torch.device("cpu"), "dtype": torch.float32}
    whole = KVWindow.empty(SHAPE, **options)
    sharded = KVWindow.empty(SHAPE, **options, num_ranks=group.num_ranks)
    generator = torch.Generator().manual_seed(0)
    for chunk in range(5):
        for window in (whole, sharded):
            window.make_room(3)
            assert window.moved_back == (6 if chunk == 4 else 0)
        one = whole.for_chunk(3)
        several = ShardedWindow(sharded.for_chunk(3), group)
        for layer in range(SHAPE.num_layers):
            q, k, v = torch.randn(3, 1, 3, 7, 4, 12, generator=generator)
            if chunk == layer:  # once in each layer
                one.write(layer, k, v)
                several.write(layer, group.shard(k), group.shard(v))
                continue
            seen = several.attend(layer, *map(group.shard, (q, k, v)))
            torch.testing.assert_close(seen, group.shard(one.attend(layer, q, k, v)))
        whole.advance(3)
        sharded.advance(3)
    for ours, all_heads in ((sharded.k_NBFTHD, whole.k_NBFTHD), (sharded.v_NBFTHD, whole.v_NBFTHD)):
        assert torch.equal(ours, heads_of(group, all_heads, dim=4))


@claim
def golden_rollouts_are_reproduced(group):
    folders = sorted(GOLDEN.glob("dit_*"))
    assert len(folders) == 4
    for folder in folders:
        errors = collect(group, folder)
        assert not isinstance(errors, LingbotError), errors
        assert len(errors) == 7 and max(error for _, error in errors) < 1e-5, errors


def play(engine, walk=WALK):
    """The frames of a walk, on rank 0, and its window's keys."""
    session = engine.open(make_spec())
    chunks = [engine.denoise(session, actions) for actions in walk]
    if engine.group.rank:
        return [], session.window.k_NBFTHD
    return [engine.decode(session, latents) for latents in chunks], session.window.k_NBFTHD


def cache_bytes(group):
    """Room for three latent frames of this rank's tokens; a walk needs more."""
    return 3 * 2 * SHAPE.num_layers * group.split(TOKENS)[group.rank] * SHAPE.dim * 4


def check_walks(group, control):
    cached = make_engine(control=control, group=group, camera_cache_bytes=cache_bytes(group))
    frames, k = play(cached)
    stats = cached.camera_cache.stats
    assert stats.evictions and stats.hits and stats.stored_bytes
    plain_frames, plain_k = play(make_engine(control=control, group=group))
    assert torch.equal(k, plain_k)
    assert all(map(np.array_equal, frames, plain_frames))
    if group.rank == 0:
        alone_frames, alone_k = play(make_engine(control=control))
        torch.testing.assert_close(k, heads_of(group, alone_k, dim=4), rtol=1e-5, atol=1e-5)
        assert len(frames) == len(WALK)
        for ours, alone in zip(frames, alone_frames, strict=True):
            # A product over fewer tokens may round differently.
            assert np.abs(ours.astype(int) - alone.astype(int)).max() <= 1


@claim
def a_walk_shows_one_ranks_frames(group):
    check_walks(group, "cam")


@claim
def a_walk_of_an_act_model_shows_one_ranks_frames(group):
    check_walks(group, "act")


@claim
def a_group_of_one_rank_changes_no_bit(group):
    groups = [dist.new_group([rank]) for rank in range(group.num_ranks)]
    single = SequenceParallelGroup(groups[group.rank])
    assert (single.rank, single.num_ranks) == (0, 1)
    (frames, k), (alone_frames, alone_k) = (
        play(make_engine(group=group), WALK[:2]) for group in (single, SINGLE)
    )
    assert torch.equal(k, alone_k) and len(frames) == 2
    assert all(map(np.array_equal, frames, alone_frames))


@pytest.fixture(scope="module", params=[2, 4])
def failures(request):
    return spawn_ranks(request.param, check_all)


@pytest.mark.parametrize("name", CLAIMS)
def test_on_several_ranks(failures, name):
    assert not failures[name], failures[name]


def test_alone_nothing_is_copied_or_sent():
    q, k = numbered(6), numbered(6)
    assert not dist.is_initialized()
    assert all(a is b for a, b in zip(SINGLE.to_heads(q, k, num_tokens=6), (q, k), strict=True))
    assert SINGLE.to_tokens(q) is q and SINGLE.gather(q, num_tokens=6) is q
    assert SINGLE.shard(q).data_ptr() == q.data_ptr() and torch.equal(SINGLE.shard(q), q)


@pytest.mark.parametrize(
    "num_ranks, reason",
    [
        (3, "num_heads 4 must be divisible by the 3 ranks"),
        (8, "num_heads 4 must be divisible by the 8 ranks"),
    ],
)
def test_a_model_that_cannot_be_split_is_refused_with_the_numbers(num_ranks, reason):
    group = SequenceParallelGroup()
    group.num_ranks = num_ranks
    with pytest.raises(LingbotError, match=reason):
        make_engine(group=group)


def test_every_rank_needs_a_token():
    group = SequenceParallelGroup()
    group.num_ranks = 4
    group.check(SHAPE, tokens=4)
    with pytest.raises(LingbotError, match="of 3 tokens cannot be split over 4 ranks"):
        group.check(SHAPE, tokens=3)
