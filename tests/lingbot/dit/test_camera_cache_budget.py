"""The camera cache's budget, its order of eviction, its counts and its times."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lingbot.camera.pose_file import rotation_matrix
from lingbot.config import SCHEDULE_V2
from lingbot.dit.camera_cache import CameraCache, Stopwatch
from lingbot.dit.kv_cache import KVWindow
from lingbot.dit.sampler import prepare_next_chunk, sample_chunk
from lingbot.dit.schedule import build_steps
from tests.lingbot.toy import SHAPE
from tests.lingbot.watched_model import (
    ENTRY_BYTES,
    TOKENS,
    cache_of,
    chunk,
    live_bytes,
    make_watched_model,
    pose_of,
    recompute,
    visit,
)


@pytest.fixture
def model():
    return make_watched_model()


def test_the_least_recently_used_entry_is_evicted_first(model):
    cache = cache_of(model, 3)
    visit(cache, 1, 2, 3)
    visit(cache, 1)
    visit(cache, 4)  # evicts 2
    assert cache.stats.evictions == 1
    assert [visit(cache, number)[1] for number in (1, 3, 4)] == [1, 1, 1]
    assert visit(cache, 2)[1] == 0


def test_maps_above_the_budget_are_used_and_not_stored(model):
    cache = CameraCache(model, budget_bytes=ENTRY_BYTES - 1)
    for _ in range(2):
        maps, hits = visit(cache, 1)
        assert torch.equal(maps, recompute([pose_of(1)])) and hits == 0
    assert (cache.stats.stored_bytes, cache.stats.evictions) == (0, 0)


def test_an_entry_of_exactly_the_budget_is_stored(model):
    cache = CameraCache(model, budget_bytes=ENTRY_BYTES)
    assert [visit(cache, 1)[1] for _ in range(2)] == [0, 1]


def test_a_chunk_that_does_not_fit_stores_the_poses_that_do(model):
    """It evicts none of the entries that it uses itself."""
    cache = cache_of(model, 2)
    visit(cache, 1)
    maps, hits = visit(cache, 3, 4, 1, 4)
    assert torch.equal(maps, recompute([pose_of(number) for number in (3, 4, 1, 4)]))
    assert hits == 2  # 1 was stored, and 4 repeats
    assert cache.stats.evictions == 0
    assert [visit(cache, number)[1] for number in (1, 3)] == [1, 1]
    assert live_bytes(model.entries) == 2 * ENTRY_BYTES


def random_pose(chance):
    pose = np.eye(4)
    pose[:3, :3] = rotation_matrix(chance.normal(size=3))
    pose[:3, 3] = chance.normal(size=3)
    return pose


class CheckedMaps:
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
    """500 random poses in two interleaved sessions, and some that repeat, in real passes."""
    cache = cache_of(model, entries)
    chance = np.random.default_rng(0)
    text = model.embed_text(torch.zeros(1, 1, 8))
    options = {"chunk": 3, "tokens": TOKENS, "device": torch.device("cpu"), "dtype": torch.float32}
    windows = [KVWindow.empty(SHAPE, window=6, sink=0, **options) for _ in range(2)]
    steps = build_steps(SCHEDULE_V2, num_steps=1)
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
            condition, checked = torch.zeros(1, 20, 3, 2, 6), CheckedMaps(maps, check)
            inputs = prepare_next_chunk(model, window, condition=condition, maps=checked, text=text)
            sample_chunk(model, inputs, noise=noise, renoise=lambda i: noise, steps=steps)
        window.advance(3)
        check()
    stats = cache.stats
    assert len(checks) > 1500
    assert max(checks) == model.most_stored_bytes == int(entries) * ENTRY_BYTES
    assert stats.hits + stats.misses == 750 and stats.misses >= 500 and stats.hits > 20
    assert len(model.entries) == stats.stored_bytes / ENTRY_BYTES


class CountingTwin:
    """The counts that a cache with room for so many equal entries must have."""

    def __init__(self, room):
        self.room, self.kept = room, []  # least recently used first
        self.hits = self.misses = self.evictions = 0

    def visit(self, numbers):
        for i, number in enumerate(numbers):
            known = number in self.kept or number in numbers[:i]
            self.hits, self.misses = self.hits + known, self.misses + (not known)
            evictable = [kept for kept in self.kept if kept not in numbers]
            if not known and len(self.kept) - len(evictable) < self.room:
                if len(self.kept) == self.room:
                    self.kept.remove(evictable[0])
                    self.evictions += 1
                self.kept.append(number)
        for number in numbers:
            if number in self.kept:
                self.kept.remove(number)
                self.kept.append(number)


CHUNKS = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), max_size=12)


@settings(max_examples=60, deadline=None)
@given(room=st.integers(1, 5), slack=st.integers(0, ENTRY_BYTES - 1), chunks=CHUNKS)
def test_the_counts_are_those_of_the_twin(room, slack, chunks):
    model = make_watched_model()
    cache = CameraCache(model, budget_bytes=room * ENTRY_BYTES + slack)
    twin = CountingTwin(room)
    for numbers in chunks:
        visit(cache, *numbers)
        twin.visit(numbers)
        stats = cache.stats
        assert (stats.hits, stats.misses) == (twin.hits, twin.misses)
        assert (stats.evictions, stats.stored_bytes) == (
            twin.evictions,
            len(twin.kept) * ENTRY_BYTES,
        )
        assert live_bytes(model.entries) == stats.stored_bytes
    assert model.most_stored_bytes <= cache.budget_bytes


def test_the_conditioners_seconds_are_counted_only_where_it_runs(model):
    cache = cache_of(model, 10)
    visit(cache, 1, 2, 3)
    spent = cache.stats.conditioner_s
    assert 0 < spent < 10
    visit(cache, 3, 2, 1)
    assert cache.stats.conditioner_s == spent
    visit(cache, 4)
    assert cache.stats.conditioner_s > spent


class FakeEvent:
    """A GPU's event on a machine without one. It is over at once, or when a test sets `over`."""

    over = True
    on_query = None

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        pass

    def query(self):
        on_query, FakeEvent.on_query = FakeEvent.on_query, None
        if on_query:
            on_query()
        return FakeEvent.over

    def elapsed_time(self, ended):
        assert FakeEvent.over, "the time of a running section is unknown"
        return 2000.0


def test_a_gpus_seconds_are_counted_once_they_are_over(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(FakeEvent, "over", False)
    stopwatch = Stopwatch(torch.device("cuda"))
    for _ in range(3):
        with stopwatch.running():
            pass
    assert stopwatch.read() == 0
    monkeypatch.setattr(FakeEvent, "over", True)
    assert stopwatch.read() == stopwatch.read() == 6


def test_a_gpus_seconds_can_be_read_by_another_thread_at_any_moment(monkeypatch):
    """The metrics' thread reads them while a section ends: each section counts once."""
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    stopwatch = Stopwatch(torch.device("cuda"))
    reader = threading.Thread(target=stopwatch.read)

    def read_meanwhile():
        reader.start()
        reader.join(0.05)

    monkeypatch.setattr(FakeEvent, "on_query", read_meanwhile)
    with stopwatch.running():
        pass
    reader.join()
    assert stopwatch.read() == 2
