"""The failures of other servers' caches, and the promises of this one."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from torch.multiprocessing.reductions import StorageWeakRef

from lingbot.camera.pose_file import rotation_matrix
from lingbot.camera.rays import control_map, default_intrinsics, pose_key
from lingbot.config import SCHEDULE_V2
from lingbot.dit.camera_cache import CameraCache, Stopwatch
from lingbot.dit.kv_cache import KVWindow
from lingbot.dit.model import WorldModel
from lingbot.dit.sampler import prepare_next_chunk, sample_chunk
from lingbot.dit.schedule import build_steps
from lingbot.runtime.engine import Engine
from tests.lingbot.toy import SHAPE

# So few tokens that a product over three latent frames at once rounds otherwise than over one.
SIZE = {"width": 48, "height": 16}
TOKENS = 3
ENTRY = 2 * SHAPE.num_layers * TOKENS * SHAPE.dim * 4  # bytes of a latent frame's maps in float32
WALK = [["", "w", "w"], ["w", "wl", "l"], ["w", "w", "w"], ["", "i", "ws"], ["a", "w", "a"]]
HELD = [["w", "w", "w"]] * 5


class Watched(WorldModel):
    """Writes down what the conditioner makes, without keeping it alive."""

    def __init__(self, config=SHAPE):
        super().__init__(config)
        self.layers = []  # of each time that the conditioner ran
        self.entries, self.working = [], []  # storage and bytes of whole and of one layer's maps
        self.most_stored = self.most_working = 0
        self.num_entries = 0
        self.fail_at = None  # the number of the entry that cannot be made, or "remember"

    def compute_scale_shift(self, layer, camera_tokens):
        pair = super().compute_scale_shift(layer, camera_tokens)
        self.layers.append(layer)
        self.working += map(note, pair)
        self.most_working = max(self.most_working, live_bytes(self.working))
        return pair

    def compute_frame_maps(self, camera_tokens):
        if self.num_entries == self.fail_at:
            raise MemoryError
        maps = super().compute_frame_maps(camera_tokens)
        self.num_entries += 1
        self.entries.append(note(maps))
        self.most_stored = max(self.most_stored, live_bytes(self.entries))
        return maps

    def write_cache(self, x, chunk):
        if self.fail_at == "write_cache":
            raise MemoryError
        super().write_cache(x, chunk)

    @property
    def num_poses(self):
        """How many times the conditioner ran through all blocks."""
        assert all(self.layers.count(i) == self.layers.count(0) for i in set(self.layers))
        return self.layers.count(0)


def note(tensor):
    return StorageWeakRef(tensor.untyped_storage()), tensor.untyped_storage().nbytes()


def live_bytes(notes):
    """Of the storages that somebody holds, whole or in part; the others are forgotten."""
    notes[:] = [one for one in notes if not one[0].expired()]
    return sum(num_bytes for _, num_bytes in notes)


def make_model(**changes):
    torch.manual_seed(0)
    return Watched(replace(SHAPE, **changes)).eval().requires_grad_(False)


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def build(engine):
    """The toy engine with a cache of so many entries; always the same weights."""

    def make(entries, *, control="cam", dtype=torch.float32):
        return Engine(
            replace(engine.config, **SIZE),
            model=make_model(control=control).to(dtype),
            vae=engine.vae,
            camera_cache_bytes=int(entries * ENTRY * dtype.itemsize / 4),
        )

    return make


@pytest.fixture
def spec(spec):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 48, 3), dtype=np.uint8)
    return lambda **changes: spec(first_frame=pixels, **changes)


def cache_of(model, entries):
    return CameraCache(model, budget_bytes=int(entries * ENTRY))


def play(engine, session, walk=WALK):
    return [engine.step(session, actions) for actions in walk]


def same(one, other):
    return all(np.array_equal(x, y) for x, y in zip(one, other, strict=True))


def pose(number):
    made = np.eye(4)
    made[:3, 3] = number, 0.0, 1.0
    return made


def control_of(pose):
    return control_map("cam", pose[None], [""], default_intrinsics(**SIZE), **SIZE)[None]


def chunk(cache, poses, make_control=None):
    """A chunk of these poses, asked for as the engine asks."""
    keys = [pose_key("cam", one, "", default_intrinsics(**SIZE), **SIZE) for one in poses]
    return cache.chunk(keys, make_control or (lambda i: control_of(poses[i])))


def maps_of(camera, num_frames=1):
    """A copy of all that a camera does, [N, 2, B, F, T, C]."""
    layers = [torch.stack(camera.scale_shift(layer)) for layer in range(SHAPE.num_layers)]
    return torch.stack(layers).expand(-1, -1, -1, num_frames, -1, -1)


def visit(cache, *numbers):
    """A chunk of these poses: its maps, and how many of its latent frames were hits."""
    before = cache.stats.hits
    with chunk(cache, [pose(number) for number in numbers]) as camera:
        return maps_of(camera, len(numbers)), cache.stats.hits - before


def recomputed(poses):
    """The slow twin: every latent frame on its own, from the pose on."""
    model = make_model()
    frames = []
    for one in poses:
        tokens = model.embed_camera(control_of(one))
        layers = [model.compute_scale_shift(layer, tokens) for layer in range(SHAPE.num_layers)]
        frames.append(torch.stack([torch.stack(pair) for pair in layers]))
    return torch.cat(frames, dim=3)


# What went wrong elsewhere.


def test_an_address_reused_after_free_gives_no_stale_maps(model):
    """Two poses and their control maps: the second lies where the first lay, and seems the same."""
    cache = cache_of(model, 10)
    place, folded = np.empty((4, 4)), np.empty((1, 384, 1, 2, 6), np.float32)
    addresses = set()
    for number in (1, 2):
        place[:], folded[:] = pose(number), control_of(pose(number)).numpy()
        control = torch.from_numpy(folded)
        with chunk(cache, [place], lambda i, control=control: control) as camera:
            assert torch.equal(maps_of(camera), recomputed([pose(number)]))
        addresses.add((place.ctypes.data, control.data_ptr(), control._version))
        del control
    assert len(addresses) == 1


def test_a_pose_changed_in_place_gives_no_stale_maps(model):
    cache = cache_of(model, 10)
    moving = pose(1)
    with chunk(cache, [moving]):
        pass
    moving[0, 3] = 2
    with chunk(cache, [moving]) as camera:
        assert torch.equal(maps_of(camera), recomputed([pose(2)]))


def test_a_control_map_changed_in_place_changes_no_stored_maps(model):
    cache = cache_of(model, 10)
    control = control_of(pose(1))
    with chunk(cache, [pose(1)], lambda i: control):
        pass
    control.zero_()
    with chunk(cache, [pose(1)], lambda i: control) as camera:
        assert torch.equal(maps_of(camera), recomputed([pose(1)]))
    assert cache.stats.hits == 1


def test_inference_mode_needs_no_warm_up(build, spec):
    """From an engine's first chunk on; what it keeps is as good in later ones."""
    engine, twin = build(10), build(0)
    first, *later = HELD
    session, twin_session = engine.open(spec()), twin.open(spec())
    assert same(play(engine, session, [first]), play(twin, twin_session, [first]))
    assert engine.camera_cache.stats.misses == 2
    assert same(play(engine, session, later), play(twin, twin_session, later))
    assert engine.camera_cache.stats.misses == 2


def test_maps_made_in_inference_mode_have_no_version_and_need_none(model):
    cache = cache_of(model, 10)
    for _ in range(2):
        with torch.inference_mode(), chunk(cache, [pose(1)]) as camera:
            scale, _ = camera.scale_shift(0)
            with pytest.raises(RuntimeError):
                scale._version  # noqa: B018
    assert (cache.stats.hits, cache.stats.misses) == (1, 1)


def test_evicted_maps_are_freed(model):
    cache = cache_of(model, 2)
    for number in range(10):
        visit(cache, number)
    assert model.num_entries == 10
    assert live_bytes(model.entries) == 2 * ENTRY


def test_a_camera_that_somebody_keeps_keeps_no_maps(model):
    cache = cache_of(model, 1)
    with chunk(cache, [pose(1), pose(2)]) as camera:
        camera.scale_shift(0)
    visit(cache, 3)
    assert model.most_stored == ENTRY
    assert live_bytes(model.working) == 0
    with pytest.raises(AssertionError, match="over"):
        camera.scale_shift(0)


def test_maps_are_freed_with_their_engine(build, spec):
    engine = build(10)
    play(engine, engine.open(spec()))
    entries = engine.model.entries
    assert live_bytes(entries) > 0
    del engine
    assert live_bytes(entries) == 0


@pytest.mark.parametrize("entries, poses", [(0, 15), (0.5, 10)])
def test_maps_that_are_not_kept_are_freed_at_once(build, spec, entries, poses):
    """They are made a layer at a time: of all passes, one layer's maps are alive."""
    engine = build(entries)
    play(engine, engine.open(spec()))
    model = engine.model
    assert model.num_entries == 0
    assert len(model.layers) == poses * (5 * SHAPE.num_layers - 1)  # the last pass stops early
    assert model.most_working == 3 * ENTRY / SHAPE.num_layers
    assert live_bytes(model.working) == 0


def test_a_single_rank_profits(build, spec):
    """Five chunks of five passes: the resting first frame, and the key that is held."""
    engine = build(10)
    play(engine, engine.open(spec()), HELD)
    assert engine.model.num_poses == 2
    assert engine.camera_cache.stats.hits == 15 - 2


def fail_in_control(model, cache):
    def make_control(i):
        if i == 2:
            raise MemoryError
        return control_of(pose(3))

    with chunk(cache, [pose(1), pose(3), pose(4)], make_control):
        pass


def fail_in_compute(model, cache):
    model.fail_at = model.num_entries + 1
    visit(cache, 1, 3, 4)


def fail_in_a_pass(model, cache):
    with chunk(cache, [pose(1), pose(3), pose(4)]) as camera:
        camera.scale_shift(0)
        raise KeyboardInterrupt


FAILURES = [fail_in_control, fail_in_compute, fail_in_a_pass]
FAILED = (MemoryError, KeyboardInterrupt)


@pytest.mark.parametrize("fail", FAILURES)
def test_a_failed_chunk_leaves_entries_and_budget_as_they_were(model, fail):
    """Their order too: the chunk had used the oldest entry."""
    cache = cache_of(model, 5)
    visit(cache, 1, 2)
    with pytest.raises(FAILED) as held:
        fail(model, cache)
    model.fail_at = None
    assert held.traceback and live_bytes(model.entries) == cache.stats.stored_bytes == 2 * ENTRY
    assert cache.stats.evictions == 0
    assert visit(cache, 5, 6, 7)[1] == 0
    assert live_bytes(model.entries) == cache.stats.stored_bytes == 5 * ENTRY
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
    assert torch.equal(visit(cache, 1, 3, 4)[0], recomputed([pose(1), pose(3), pose(4)]))
    assert live_bytes(model.entries) == cache.stats.stored_bytes == 3 * ENTRY


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


# What comes out.


@pytest.mark.parametrize("entries", [0.5, 1, 2, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("control", ["cam", "act"])
def test_frames_and_memory_are_the_same_bits_with_and_without_cache(
    build, spec, control, dtype, entries
):
    """The memory is what the context pass writes; 100 entries hold all poses, the others some."""
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


def test_a_pose_is_the_same_bits_in_any_company(model):
    cache, alone = cache_of(model, 10), [visit(cache_of(model, 10), n)[0] for n in (1, 2, 3)]
    for _ in range(2):
        assert torch.equal(visit(cache, 1, 2, 3)[0], torch.cat(alone, dim=3))
    assert torch.equal(visit(cache_of(model, 0), 1, 2, 3)[0], torch.cat(alone, dim=3))


def test_every_latent_frame_gets_its_own_pose(model):
    cache = cache_of(model, 10)
    for numbers in ((1, 2, 1), (3, 2, 2), (2, 2, 2)):
        expected = recomputed([pose(number) for number in numbers])
        assert torch.equal(visit(cache, *numbers)[0], expected)


def test_no_budget_is_off(build, spec):
    engine = build(0)
    play(engine, engine.open(spec()), HELD[:2])
    stats = engine.camera_cache.stats
    assert (stats.hits, stats.misses, stats.stored_bytes, stats.evictions) == (0, 6, 0, 0)
    assert engine.model.num_entries == 0


# What is shared, and with whom.


@pytest.mark.parametrize("entries, made", [(10, 1), (0.5, 4)])
def test_a_pose_that_repeats_inside_a_chunk_is_computed_once(model, entries, made):
    """Once and for all, or once in each of four passes where it is too large to be stored."""
    cache = cache_of(model, entries)
    with chunk(cache, [pose(1)] * 3) as camera:
        for _ in range(4):
            assert torch.equal(maps_of(camera, 3), recomputed([pose(1)] * 3))
    assert model.num_poses == made
    assert (cache.stats.hits, cache.stats.misses) == (2, 1)


def test_two_sessions_share_entries(build, spec):
    engine = build(100)
    play(engine, engine.open(spec(seed=1)))
    num_poses = engine.model.num_poses
    stats = engine.camera_cache.stats
    play(engine, engine.open(spec(seed=2, prompt="elsewhere")))
    assert engine.model.num_poses == num_poses
    assert engine.camera_cache.stats.hits == stats.hits + 15


def test_a_session_closed_in_mid_walk_changes_nothing_for_the_other(build, spec):
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


# The budget.


def test_the_least_recently_used_goes_first(model):
    cache = cache_of(model, 3)
    visit(cache, 1, 2, 3)
    visit(cache, 1)
    visit(cache, 4)  # 2 goes
    assert cache.stats.evictions == 1
    assert [visit(cache, number)[1] for number in (1, 3, 4)] == [1, 1, 1]
    assert visit(cache, 2)[1] == 0


def test_what_is_larger_than_the_budget_is_used_and_not_stored(model):
    cache = CameraCache(model, budget_bytes=ENTRY - 1)
    for _ in range(2):
        maps, hits = visit(cache, 1)
        assert torch.equal(maps, recomputed([pose(1)])) and hits == 0
    assert (cache.stats.stored_bytes, cache.stats.evictions) == (0, 0)


def test_an_entry_of_exactly_the_budget_is_stored(model):
    cache = CameraCache(model, budget_bytes=ENTRY)
    assert [visit(cache, 1)[1] for _ in range(2)] == [0, 1]


def test_a_chunk_that_does_not_fit_keeps_what_does(model):
    """And evicts nothing that it uses itself."""
    cache = cache_of(model, 2)
    visit(cache, 1)
    maps, hits = visit(cache, 3, 4, 1, 4)
    assert torch.equal(maps, recomputed([pose(number) for number in (3, 4, 1, 4)]))
    assert hits == 2  # 1 was there, and 4 repeats
    assert cache.stats.evictions == 0
    assert [visit(cache, number)[1] for number in (1, 3)] == [1, 1]
    assert live_bytes(model.entries) == 2 * ENTRY


def random_pose(chance):
    made = np.eye(4)
    made[:3, :3] = rotation_matrix(chance.normal(size=3))
    made[:3, 3] = chance.normal(size=3)
    return made


class Checked:
    """Conditioner maps that run a check before and after each use."""

    def __init__(self, maps, check):
        self.maps, self.check = maps, check

    def scale_shift(self, layer):
        self.check()
        pair = self.maps.scale_shift(layer)
        self.check()
        return pair


@pytest.mark.parametrize("entries", [1, 5.5])
@torch.inference_mode()
def test_a_storm_of_poses_never_exceeds_the_budget(model, entries):
    """500 random poses in two interleaved sessions, and some that come again, in real passes."""
    cache = cache_of(model, entries)
    chance = np.random.default_rng(0)
    text = model.embed_text(torch.zeros(1, 1, 8))
    memory = {"chunk": 3, "tokens": TOKENS, "device": torch.device("cpu"), "dtype": torch.float32}
    windows = [KVWindow.empty(SHAPE, window=6, sink=0, **memory) for _ in range(2)]
    noise = torch.randn(1, 16, 3, 2, 6)
    poses, checks = [], []

    def check():
        checks.append(live_bytes(model.entries))
        assert checks[-1] == cache.stats.stored_bytes <= cache.budget_bytes

    for number in range(250):
        poses += [random_pose(chance), random_pose(chance)]
        again = poses[-1 - chance.integers(min(len(poses), 12))]
        window = windows[number % 2]
        with chunk(cache, [poses[-2], again, poses[-1]]) as maps:
            check()
            inputs = prepare_next_chunk(
                model,
                window,
                condition=torch.zeros(1, 20, 3, 2, 6),
                maps=Checked(maps, check),
                text=text,
            )
            steps = build_steps(SCHEDULE_V2, num_steps=1)
            sample_chunk(model, inputs, noise=noise, renoise=lambda i: noise, steps=steps)
        window.advance(3)
        check()
    stats = cache.stats
    assert len(checks) > 1500 and max(checks) == model.most_stored == int(entries) * ENTRY
    assert stats.hits + stats.misses == 750 and stats.misses >= 500 and stats.hits > 20
    assert len(model.entries) == stats.stored_bytes / ENTRY


class Twin:
    """What the cache should count, for entries of one size."""

    def __init__(self, room):
        self.room, self.kept = room, []  # least recently used first
        self.hits = self.misses = self.evictions = 0

    def visit(self, numbers):
        for i, number in enumerate(numbers):
            known = number in self.kept or number in numbers[:i]
            self.hits, self.misses = self.hits + known, self.misses + (not known)
            old = [kept for kept in self.kept if kept not in numbers]
            if not known and len(self.kept) - len(old) < self.room:
                if len(self.kept) == self.room:
                    self.kept.remove(old[0])
                    self.evictions += 1
                self.kept.append(number)
        for number in numbers:
            if number in self.kept:
                self.kept.remove(number)
                self.kept.append(number)


CHUNKS = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), max_size=12)


@settings(max_examples=60, deadline=None)
@given(room=st.integers(1, 5), slack=st.integers(0, ENTRY - 1), chunks=CHUNKS)
def test_it_counts_as_its_twin(room, slack, chunks):
    model = make_model()
    cache, twin = CameraCache(model, budget_bytes=room * ENTRY + slack), Twin(room)
    for numbers in chunks:
        visit(cache, *numbers)
        twin.visit(numbers)
        stats = cache.stats
        assert (stats.hits, stats.misses) == (twin.hits, twin.misses)
        assert (stats.evictions, stats.stored_bytes) == (twin.evictions, len(twin.kept) * ENTRY)
        assert live_bytes(model.entries) == stats.stored_bytes
    assert model.most_stored <= cache.budget_bytes


def test_the_conditioner_s_seconds_are_counted_only_where_it_runs(model):
    cache = cache_of(model, 10)
    visit(cache, 1, 2, 3)
    spent = cache.stats.conditioner_s
    assert 0 < spent < 10
    visit(cache, 3, 2, 1)
    assert cache.stats.conditioner_s == spent
    visit(cache, 4)
    assert cache.stats.conditioner_s > spent


class Mark:
    """A GPU's event on a machine without one: over at once, unless the test says otherwise."""

    over = True
    on_query = None

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        pass

    def query(self):
        asked, Mark.on_query = Mark.on_query, None
        if asked:
            asked()
        return Mark.over

    def elapsed_time(self, ended):
        assert Mark.over, "not even the time of what has not ended is known"
        return 2000.0


def test_a_gpu_s_seconds_are_counted_once_they_are_over(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Mark)
    monkeypatch.setattr(Mark, "over", False)
    watch = Stopwatch(torch.device("cuda"))
    for _ in range(3):
        with watch.running():
            pass
    assert watch.read() == 0
    monkeypatch.setattr(Mark, "over", True)
    assert watch.read() == watch.read() == 6


def test_a_gpu_s_seconds_can_be_read_while_it_works(monkeypatch):
    """By the thread of the metrics, at the worst moment: each section counts once."""
    monkeypatch.setattr(torch.cuda, "Event", Mark)
    watch = Stopwatch(torch.device("cuda"))
    reader = threading.Thread(target=watch.read)

    def read_meanwhile():
        reader.start()
        reader.join(0.05)

    monkeypatch.setattr(Mark, "on_query", read_meanwhile)
    with watch.running():
        pass
    reader.join()
    assert watch.read() == 2
