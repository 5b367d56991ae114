"""The camera cache: the conditioner's maps by pose, so that it runs once per pose, not per pass.

A quarter of a pass's linear work depends only on the camera's pose in one latent frame. An engine
shares these maps between the passes of a chunk, the frames of a held key, later chunks and other
sessions. A pose is identified by its content (`rays.pose_key`), because an address can be reused
and a tensor can change in place.

Shape letters: N layers, B batch, F latent frames, T tokens of a latent frame that this rank has,
C dim, h and w latent rows and columns.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from msgspec import Struct
from torch import Tensor

from lingbot.dit.model import WorldModel
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup


class CacheStats(Struct, frozen=True, kw_only=True):
    """Totals since the cache was created."""

    hits: int  # latent frames whose maps were stored, or computed for the same chunk already
    misses: int  # latent frames whose maps were computed
    evictions: int
    stored_bytes: int
    conditioner_s: float  # seconds spent on computing maps, control maps included


class Stopwatch:
    """Adds up the time of sections. On a GPU it records events and waits for none.

    Any thread may read it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._total_s = 0.0
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._lock = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        if self._device.type == "cuda":
            start = torch.cuda.Event(enable_timing=True)
            end = torch.cuda.Event(enable_timing=True)
            start.record()
            yield
            end.record()
            self._pending.append((start, end))
            self._collect()
        else:
            started = time.perf_counter()
            yield
            self._total_s += time.perf_counter() - started

    def read(self) -> float:
        """Seconds of all finished sections."""
        self._collect()
        return self._total_s

    def _collect(self) -> None:
        with self._lock:
            while self._pending and self._pending[0][1].query():
                start, end = self._pending.pop(0)
                self._total_s += start.elapsed_time(end) / 1000


@dataclass(frozen=True, slots=True)
class CachedMaps:
    """The stored maps of one latent frame."""

    maps: Tensor  # [N, 2, B, 1, T, C]

    def scale_shift(self, layer: int) -> tuple[Tensor, Tensor]:
        scale, shift = self.maps[layer]
        return scale, shift


@dataclass(frozen=True, slots=True)
class UncachedMaps:
    """The maps of one latent frame, computed at each use and one layer at a time."""

    model: WorldModel
    camera_tokens: Tensor  # [B, 1, T, C]
    stopwatch: Stopwatch

    def scale_shift(self, layer: int) -> tuple[Tensor, Tensor]:
        with self.stopwatch.running():
            return self.model.compute_scale_shift(layer, self.camera_tokens)


@dataclass(frozen=True, slots=True)
class ChunkMaps:
    """The `ConditionerMaps` of one chunk. `maps_by_pose` is emptied at the end of the chunk."""

    maps_by_pose: dict[bytes, CachedMaps | UncachedMaps]
    keys: Sequence[bytes]  # pose keys, one per latent frame

    def scale_shift(self, layer: int) -> tuple[Tensor, Tensor]:
        """[B, F, T, C] each; F is 1 where all latent frames share a pose."""
        assert self.maps_by_pose, "the chunk is over"
        pairs = {key: maps.scale_shift(layer) for key, maps in self.maps_by_pose.items()}
        if len(pairs) == 1:
            return pairs[self.keys[0]]
        scale, shift = (torch.cat([pairs[key][i] for key in self.keys], dim=1) for i in (0, 1))
        return scale, shift


class CameraCache:
    """One engine's cache. Its entries hold for one model's weights and one rank's tokens.

    Maps are computed one latent frame at a time, stored or not, because a product over several
    frames may round differently. The results are therefore bit-identical with and without cache.
    """

    def __init__(
        self, model: WorldModel, *, budget_bytes: int, group: SequenceParallelGroup = SINGLE
    ) -> None:
        """Entries take at most `budget_bytes` at any time; 0 turns the cache off."""
        self.budget_bytes = budget_bytes
        self._model = model
        self._group = group
        self._entries: OrderedDict[bytes, CachedMaps] = OrderedDict()  # least recently used first
        self._stored_bytes = self._hits = self._misses = self._evictions = 0
        self._stopwatch = Stopwatch(next(model.parameters()).device)

    @property
    def stats(self) -> CacheStats:
        return CacheStats(
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            stored_bytes=self._stored_bytes,
            conditioner_s=self._stopwatch.read(),
        )

    @contextmanager
    def chunk(
        self, keys: Sequence[bytes], make_control: Callable[[int], Tensor]
    ) -> Iterator[ChunkMaps]:
        """The maps of a chunk whose latent frames have these pose keys, valid inside the `with`.

        `make_control(i)` returns frame i's control map [B, 384 or 448, 1, h, w]. It is called only
        for poses that are not stored. If the body raises, entries added for this chunk are removed;
        entries evicted for them are not restored.
        """
        if not self.budget_bytes:
            keys = [bytes([i]) for i in range(len(keys))]  # no sharing between latent frames
        maps_by_pose: dict[bytes, CachedMaps | UncachedMaps] = {}
        added: list[bytes] = []
        try:
            self._look_up(keys, make_control, maps_by_pose, added)
            yield ChunkMaps(maps_by_pose, keys)
        except BaseException:
            for key in added:
                self._drop(key)
            raise
        finally:
            maps_by_pose.clear()  # a ChunkMaps that outlives its chunk, as in a traceback, is empty
        for key in keys:
            if key in self._entries:
                self._entries.move_to_end(key)

    def _look_up(
        self,
        keys: Sequence[bytes],
        make_control: Callable[[int], Tensor],
        maps_by_pose: dict[bytes, CachedMaps | UncachedMaps],
        added: list[bytes],
    ) -> None:
        """Fill `maps_by_pose` with all poses of the chunk, and `added` with the newly stored."""
        for i, key in enumerate(keys):
            if key in maps_by_pose:
                self._hits += 1
            elif key in self._entries:
                self._hits += 1
                maps_by_pose[key] = self._entries[key]
            else:
                self._misses += 1
                uncached = self._embed(make_control, i)
                num_bytes = 2 * self._model.config.num_layers * uncached.camera_tokens.nbytes
                if self._make_room(num_bytes, keep=keys):
                    maps_by_pose[key] = self._store(key, uncached.camera_tokens)
                    added.append(key)
                else:
                    maps_by_pose[key] = uncached

    def _embed(self, make_control: Callable[[int], Tensor], i: int) -> UncachedMaps:
        with self._stopwatch.running():
            camera_tokens = self._model.embed_camera(make_control(i), group=self._group)
        return UncachedMaps(self._model, camera_tokens, self._stopwatch)

    def _store(self, key: bytes, camera_tokens: Tensor) -> CachedMaps:
        with self._stopwatch.running():
            cached = CachedMaps(self._model.compute_frame_maps(camera_tokens))
        self._entries[key] = cached
        self._stored_bytes += cached.maps.nbytes
        return cached

    def _make_room(self, num_bytes: int, *, keep: Sequence[bytes]) -> bool:
        """Evict entries until `num_bytes` more fit; evict none and return False if they cannot.

        Entries of `keep` are in use, so that evicting them would free no memory.
        """
        evictable = [key for key in self._entries if key not in keep]
        least = self._stored_bytes - sum(self._entries[key].maps.nbytes for key in evictable)
        if least + num_bytes > self.budget_bytes:
            return False
        for key in evictable:
            if self._stored_bytes + num_bytes <= self.budget_bytes:
                break
            self._drop(key)
            self._evictions += 1
        return True

    def _drop(self, key: bytes) -> None:
        self._stored_bytes -= self._entries.pop(key).maps.nbytes
