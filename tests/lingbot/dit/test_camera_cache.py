"""The failures of other servers' caches, and the promises of this one.

`test_camera_cache_budget` covers the budget and the counts.
"""

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from lingbot.config import Size
from lingbot.runtime.engine import Engine
from tests.lingbot.toy import SHAPE
from tests.lingbot.watched_model import (
    ENTRY_BYTES,
    SIZE,
    cache_of,
    chunk,
    control_of,
    copy_of,
    live_bytes,
    make_watched_model,
    pose_of,
    recompute,
    visit,
)

WALK = [["", "w", "w"], ["w", "wl", "l"], ["w", "w", "w"], ["", "i", "ws"], ["a", "w", "a"]]
HELD = [["w", "w", "w"]] * 5


@pytest.fixture
def model():
    return make_watched_model()


@pytest.fixture
def build(engine):
    """Builds the toy engine with a cache of so many entries; always the same weights."""

    def build(entries, *, control="cam", dtype=torch.float32):
        return Engine(
            replace(engine.config, sizes=(Size(**SIZE),)),
            model=make_watched_model(control=control).to(dtype),
            vae=engine.vae,
            camera_cache_bytes=int(entries * ENTRY_BYTES * dtype.itemsize / 4),
        )

    return build


@pytest.fixture
def spec(spec):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 48, 3), dtype=np.uint8)
    return lambda **changes: spec(first_frame=pixels, **changes)


def play(engine, session, walk=WALK):
    return [engine.step(session, actions) for actions in walk]


def same(one, other):
    return all(np.array_equal(x, y) for x, y in zip(one, other, strict=True))


# ---- failures of other caches


def test_an_address_reused_after_free_gives_no_stale_maps(model):
    """Two poses and their control maps, the second at the address of the first."""
    cache = cache_of(model, 10)
    place, folded = np.empty((4, 4)), np.empty((1, 384, 1, 2, 6), np.float32)
    addresses = set()
    for number in (1, 2):
        place[:], folded[:] = pose_of(number), control_of(pose_of(number)).numpy()
        control = torch.from_numpy(folded)
        with chunk(cache, [place], lambda i, control=control: control) as maps:
            assert torch.equal(copy_of(maps), recompute([pose_of(number)]))
        addresses.add((place.ctypes.data, control.data_ptr(), control._version))
        del control
    assert len(addresses) == 1


def test_a_pose_changed_in_place_gives_no_stale_maps(model):
    cache = cache_of(model, 10)
    moving = pose_of(1)
    with chunk(cache, [moving]):
        pass
    moving[0, 3] = 2
    with chunk(cache, [moving]) as maps:
        assert torch.equal(copy_of(maps), recompute([pose_of(2)]))


def test_a_control_map_changed_in_place_changes_no_stored_maps(model):
    cache = cache_of(model, 10)
    control = control_of(pose_of(1))
    with chunk(cache, [pose_of(1)], lambda i: control):
        pass
    control.zero_()
    with chunk(cache, [pose_of(1)], lambda i: control) as maps:
        assert torch.equal(copy_of(maps), recompute([pose_of(1)]))
    assert cache.stats.hits == 1


def test_inference_mode_needs_no_warm_up(build, spec):
    """An engine's first chunk stores maps that serve all later ones."""
    engine, twin = build(10), build(0)
    first, *later = HELD
    session, twin_session = engine.open(spec()), twin.open(spec())
    assert same(play(engine, session, [first]), play(twin, twin_session, [first]))
    assert engine.camera_cache.stats.misses == 2
    assert same(play(engine, session, later), play(twin, twin_session, later))
    assert engine.camera_cache.stats.misses == 2


def test_maps_computed_in_inference_mode_have_no_version_and_need_none(model):
    cache = cache_of(model, 10)
    for _ in range(2):
        with torch.inference_mode(), chunk(cache, [pose_of(1)]) as maps:
            scale, _ = maps.scale_shift(0)
            with pytest.raises(RuntimeError):
                scale._version  # noqa: B018
    assert (cache.stats.hits, cache.stats.misses) == (1, 1)


def test_evicted_maps_are_freed(model):
    cache = cache_of(model, 2)
    for number in range(10):
        visit(cache, number)
    assert model.num_entries == 10
    assert live_bytes(model.entries) == 2 * ENTRY_BYTES


def test_chunk_maps_that_are_kept_hold_no_memory(model):
    cache = cache_of(model, 1)
    with chunk(cache, [pose_of(1), pose_of(2)]) as maps:
        maps.scale_shift(0)
    visit(cache, 3)
    assert model.most_stored_bytes == ENTRY_BYTES
    assert live_bytes(model.working) == 0
    with pytest.raises(AssertionError, match="over"):
        maps.scale_shift(0)


def test_maps_are_freed_with_their_engine(build, spec):
    engine = build(10)
    play(engine, engine.open(spec()))
    entries = engine.model.entries
    assert live_bytes(entries) > 0
    del engine
    assert live_bytes(entries) == 0


@pytest.mark.parametrize("entries, poses", [(0, 15), (0.5, 10)])
def test_maps_that_are_not_stored_are_freed_at_once(build, spec, entries, poses):
    """They are computed a layer at a time: one layer's maps are alive in any pass."""
    engine = build(entries)
    play(engine, engine.open(spec()))
    model = engine.model
    assert model.num_entries == 0
    assert len(model.layers) == poses * (5 * SHAPE.num_layers - 1)  # the last pass stops early
    assert model.most_working_bytes == 3 * ENTRY_BYTES / SHAPE.num_layers
    assert live_bytes(model.working) == 0


def test_a_single_rank_profits(build, spec):
    """Five chunks of five passes have two poses: the resting first frame, and the held key."""
    engine = build(10)
    play(engine, engine.open(spec()), HELD)
    assert engine.model.num_poses == 2
    assert engine.camera_cache.stats.hits == 15 - 2


def fail_in_control(model, cache):
    def make_control(i):
        if i == 2:
            raise MemoryError
        return control_of(pose_of(3))

    with chunk(cache, [pose_of(1), pose_of(3), pose_of(4)], make_control):
        pass


def fail_in_compute(model, cache):
    model.fail_at = model.num_entries + 1
    visit(cache, 1, 3, 4)


def fail_in_a_pass(model, cache):
    with chunk(cache, [pose_of(1), pose_of(3), pose_of(4)]) as maps:
        maps.scale_shift(0)
        raise KeyboardInterrupt


FAILURES = [fail_in_control, fail_in_compute, fail_in_a_pass]
FAILED = (MemoryError, KeyboardInterrupt)


@pytest.mark.parametrize("fail", FAILURES)
def test_a_failed_chunk_leaves_entries_and_budget_as_they_were(model, fail):
    """Their order too, although the chunk had used the oldest entry."""
    cache = cache_of(model, 5)
    visit(cache, 1, 2)
    with pytest.raises(FAILED) as held:
        fail(model, cache)
    model.fail_at = None
    assert held.traceback and live_bytes(model.entries) == cache.stats.stored_bytes
    assert cache.stats.stored_bytes == 2 * ENTRY_BYTES
    assert cache.stats.evictions == 0
    assert visit(cache, 5, 6, 7)[1] == 0
    assert live_bytes(model.entries) == cache.stats.stored_bytes == 5 * ENTRY_BYTES
    visit(cache, 8)
    assert [visit(cache, number)[1] for number in (2, 1)] == [1, 0]


@pytest.mark.parametrize("fail", FAILURES)
def test_a_failed_chunk_that_had_to_evict_leaves_nothing_of_itself(model, fail):
    cache = cache_of(model, 3)
    for number in (2, 5, 1):
        visit(cache, number)
    with pytest.raises(FAILED):
        fail(model, cache)
    model.fail_at = None
    assert live_bytes(model.entries) == cache.stats.stored_bytes
    assert [visit(cache, number)[1] for number in (1, 3, 4)] == [1, 0, 0]
    poses = [pose_of(number) for number in (1, 3, 4)]
    assert torch.equal(visit(cache, 1, 3, 4)[0], recompute(poses))
    assert live_bytes(model.entries) == cache.stats.stored_bytes == 3 * ENTRY_BYTES


def test_a_session_that_fails_leaves_the_cache_and_the_others_as_they_were(build, spec):
    engine, twin = build(10), build(10)
    session, failing = engine.open(spec()), engine.open(spec(seed=8))
    frames = play(engine, session, WALK[:2])
    before = engine.camera_cache.stats.stored_bytes
    engine.model.fail_at = "write_cache"
    with pytest.raises(MemoryError):
        engine.step(failing, ["w", "a", "d"])
    engine.model.fail_at = None
    assert live_bytes(engine.model.entries) == engine.camera_cache.stats.stored_bytes == before
    frames += play(engine, session, WALK[2:])
    assert same(frames, play(twin, twin.open(spec())))


# ---- bits


@pytest.mark.parametrize("entries", [0.5, 1, 2, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("control", ["cam", "act"])
def test_frames_and_window_have_the_same_bits_with_and_without_cache(
    build, spec, control, dtype, entries
):
    """The last pass of a chunk writes the window; 100 entries hold all poses, the others some."""
    results = []
    for size in (0, entries):
        engine = build(size, control=control, dtype=dtype)
        session = engine.open(spec())
        frames = play(engine, session)
        results.append((frames, session.window.k_NBFTHD, session.window.v_NBFTHD))
    (frames, k, v), (cached_frames, cached_k, cached_v) = results
    assert same(frames, cached_frames)
    assert torch.equal(k, cached_k) and torch.equal(v, cached_v)
    assert engine.camera_cache.stats.hits > 0


def test_a_poses_maps_do_not_depend_on_its_neighbours(model):
    cache, alone = cache_of(model, 10), [visit(cache_of(model, 10), n)[0] for n in (1, 2, 3)]
    for _ in range(2):
        assert torch.equal(visit(cache, 1, 2, 3)[0], torch.cat(alone, dim=3))
    assert torch.equal(visit(cache_of(model, 0), 1, 2, 3)[0], torch.cat(alone, dim=3))


def test_every_latent_frame_gets_its_own_pose(model):
    cache = cache_of(model, 10)
    for numbers in ((1, 2, 1), (3, 2, 2), (2, 2, 2)):
        expected = recompute([pose_of(number) for number in numbers])
        assert torch.equal(visit(cache, *numbers)[0], expected)


def test_a_budget_of_zero_turns_the_cache_off(build, spec):
    engine = build(0)
    play(engine, engine.open(spec()), HELD[:2])
    stats = engine.camera_cache.stats
    assert (stats.hits, stats.misses, stats.stored_bytes, stats.evictions) == (0, 6, 0, 0)
    assert engine.model.num_entries == 0


# ---- sharing


@pytest.mark.parametrize("entries, computed", [(10, 1), (0.5, 4)])
def test_a_pose_that_repeats_inside_a_chunk_is_computed_once(model, entries, computed):
    """Once for all four passes, or once in each where the maps are too large to be stored."""
    cache = cache_of(model, entries)
    with chunk(cache, [pose_of(1)] * 3) as maps:
        for _ in range(4):
            assert torch.equal(copy_of(maps, 3), recompute([pose_of(1)] * 3))
    assert model.num_poses == computed
    assert (cache.stats.hits, cache.stats.misses) == (2, 1)


def test_two_sessions_share_entries(build, spec):
    engine = build(100)
    play(engine, engine.open(spec(seed=1)))
    num_poses = engine.model.num_poses
    stats = engine.camera_cache.stats
    play(engine, engine.open(spec(seed=2, prompt="elsewhere")))
    assert engine.model.num_poses == num_poses
    assert engine.camera_cache.stats.hits == stats.hits + 15


def test_a_session_closed_during_its_walk_changes_nothing_for_the_other(build, spec):
    engine, twin = build(100), build(100)
    leaving, staying = engine.open(spec(seed=1)), engine.open(spec(seed=2))
    play(engine, leaving, WALK[:2])
    frames = play(engine, staying, WALK[:1])
    engine.close(leaving)
    del leaving
    num_poses = engine.model.num_poses
    frames += play(engine, staying, WALK[1:2])
    assert engine.model.num_poses == num_poses
    frames += play(engine, staying, WALK[2:])
    assert same(frames, play(twin, twin.open(spec(seed=2))))
