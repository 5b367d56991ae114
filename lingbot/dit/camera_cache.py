"""Camera maps by pose, so that the conditioner runs once for a pose and not in every pass.

A quarter of a forward pass's linear work depends on nothing but where the camera went in one latent
frame. Its maps are shared by the passes of a chunk, the frames of a held key, later chunks and the
other sessions of an engine. A pose is known by its content (``camera.pose_key``): an address may be
given away again, a tensor may be changed in place.

Shape letters: N layers, B batch, F latent frames, T tokens of a latent frame (of this rank), C dim,
h and w latent pixels.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from msgspec import Struct
from torch import Tensor

from lingbot.dit.model import WorldModel
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup


class CacheStats(Struct, frozen=True, kw_only=True):
    """What a cache has done since it was made."""

    hits: int  # latent frames whose maps were there, or are in the making for the same chunk
    misses: int  # latent frames whose maps were made
    evictions: int
    stored_bytes: int
    conditioner_s: float  # spent on making maps, from the pose on


@dataclass(slots=True)
class Stopwatch:
    """Adds up the time of sections; a GPU's work is timed where it runs, without waiting for it.

    Any thread may read it.
    """

    device: torch.device
    total_s: float = 0.0
    _pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)
    _settling: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def running(self) -> Iterator[None]:
        if self.device.type == "cuda":
            marks = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            marks[0].record()
            yield
            marks[1].record()
            self._pending.append(marks)
            self._settle()
        else:
            started = time.perf_counter()
            yield
            self.total_s += time.perf_counter() - started

    def read(self) -> float:
        """Seconds of the sections that are over."""
        self._settle()
        return self.total_s

    def _settle(self) -> None:
        with self._settling:
            while self._pending and self._pending[0][1].query():
                begun, ended = self._pending.pop(0)
                self.total_s += begun.elapsed_time(ended) / 1000


@dataclass(frozen=True, slots=True)
class CachedMaps:
    """A latent frame whose maps are kept."""

    maps: Tensor  # [N, 2, B, 1, T, C]

    def scale_shift(self, layer: int) -> tuple[Tensor, Tensor]:
        scale, shift = self.maps[layer]
        return scale, shift


@dataclass(frozen=True, slots=True)
class UncachedMaps:
    """A latent frame whose maps are made at each use, and never all at once."""

    model: WorldModel
    tokens: Tensor  # [B, 1, T, C]
    watch: Stopwatch

    def scale_shift(self, layer: int) -> tuple[Tensor, Tensor]:
        with self.watch.running():
            return self.model.compute_scale_shift(layer, self.tokens)


@dataclass(frozen=True, slots=True)
class ChunkMaps:
    """The model's ``Camera`` of one chunk: each pose in it once, and who shares it.

    Empty when its chunk is over.
    """

    poses: dict[bytes, CachedMaps | UncachedMaps]
    keys: Sequence[bytes]  # of each latent frame

    def scale_shift(self, layer: int) -> tuple[Tensor, Tensor]:
        """[B, F, T, C] each, or F = 1 where there is one pose."""
        assert self.poses, "the chunk is over"
        made = {key: pose.scale_shift(layer) for key, pose in self.poses.items()}
        if len(made) == 1:
            return made[self.keys[0]]
        scale, shift = (torch.cat([made[key][part] for key in self.keys], dim=1) for part in (0, 1))
        return scale, shift


class CameraCache:
    """Belongs to one engine: its weights and its rank's tokens are part of what an entry means.

    Maps are computed one latent frame at a time, stored or not, because a product over several
    frames at once may round differently: so every frame's bits are the same with and without it.
    """

    def __init__(
        self, model: WorldModel, *, budget_bytes: int, group: SequenceParallelGroup = SINGLE
    ) -> None:
        """Never holds more than ``budget_bytes``; 0 turns it off."""
        self.budget_bytes = budget_bytes
        self._model = model
        self._group = group
        self._entries: OrderedDict[bytes, CachedMaps] = OrderedDict()  # least recently used first
        self._stored_bytes = self._hits = self._misses = self._evictions = 0
        self._watch = Stopwatch(next(model.parameters()).device)

    @property
    def stats(self) -> CacheStats:
        return CacheStats(
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            stored_bytes=self._stored_bytes,
            conditioner_s=self._watch.read(),
        )

    @contextmanager
    def chunk(
        self, keys: Sequence[bytes], make_control: Callable[[int], Tensor]
    ) -> Iterator[ChunkMaps]:
        """The camera of a chunk whose latent frames have these keys.

        ``make_control(i)`` gives frame i's control map [B, 384 or 448, 1, h, w]; it is asked only
        for poses that are not stored. Use the camera inside the ``with`` and nowhere else. If that
        raises, no entry made for it stays; one that had to make room for those is gone.
        """
        if not self.budget_bytes:
            keys = [bytes([i]) for i in range(len(keys))]  # every latent frame for itself
        poses: dict[bytes, CachedMaps | UncachedMaps] = {}
        new: list[bytes] = []
        try:
            self._look_up(keys, make_control, poses, new)
            yield ChunkMaps(poses, keys)
        except BaseException:
            for key in new:
                self._drop(key)
            raise
        finally:
            poses.clear()  # a camera that somebody still holds, a traceback too, holds no maps
        for key in keys:
            if key in self._entries:
                self._entries.move_to_end(key)

    def _look_up(
        self,
        keys: Sequence[bytes],
        make_control: Callable[[int], Tensor],
        poses: dict[bytes, CachedMaps | UncachedMaps],
        new: list[bytes],
    ) -> None:
        """``poses`` receives all poses of the chunk, ``new`` the keys of what was stored for it."""
        for i, key in enumerate(keys):
            if key in poses:
                self._hits += 1
            elif key in self._entries:
                self._hits += 1
                poses[key] = self._entries[key]
            else:
                self._misses += 1
                fresh = self._fresh(make_control, i)
                num_bytes = 2 * self._model.config.num_layers * fresh.tokens.nbytes
                if self._make_room(num_bytes, keep=keys):
                    poses[key] = self._store(key, fresh.tokens)
                    new.append(key)
                else:
                    poses[key] = fresh

    def _fresh(self, make_control: Callable[[int], Tensor], i: int) -> UncachedMaps:
        with self._watch.running():
            tokens = self._model.embed_camera(make_control(i), group=self._group)
        return UncachedMaps(self._model, tokens, self._watch)

    def _store(self, key: bytes, tokens: Tensor) -> CachedMaps:
        with self._watch.running():
            stored = CachedMaps(self._model.compute_frame_maps(tokens))
        self._entries[key] = stored
        self._stored_bytes += stored.maps.nbytes
        return stored

    def _make_room(self, num_bytes: int, *, keep: Sequence[bytes]) -> bool:
        """Evict until so much more fits; in vain it evicts nothing.

        ``keep`` is in use: forgetting it would free no memory.
        """
        old = [key for key in self._entries if key not in keep]
        least = self._stored_bytes - sum(self._entries[key].maps.nbytes for key in old)
        if least + num_bytes > self.budget_bytes:
            return False
        for key in old:
            if self._stored_bytes + num_bytes <= self.budget_bytes:
                break
            self._drop(key)
            self._evictions += 1
        return True

    def _drop(self, key: bytes) -> None:
        self._stored_bytes -= self._entries.pop(key).maps.nbytes
