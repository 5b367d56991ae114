"""A toy model that records the conditioner's maps, and poses to ask a camera cache for."""

import numpy as np
import torch
from msgspec.structs import replace
from torch.multiprocessing.reductions import StorageWeakRef

from lingbot.camera.rays import control_map, default_intrinsics, pose_key
from lingbot.dit.camera_cache import CameraCache
from lingbot.dit.model import WorldModel
from tests.lingbot.toy import SHAPE

# With so few tokens, a product over three latent frames rounds otherwise than one over each.
SIZE = {"width": 48, "height": 16}
TOKENS = 3
ENTRY_BYTES = 2 * SHAPE.num_layers * TOKENS * SHAPE.dim * 4  # a latent frame's maps in float32


class WatchedModel(WorldModel):
    """Records the maps that the conditioner computes, without keeping them alive."""

    def __init__(self, config=SHAPE):
        super().__init__(config)
        self.layers = []  # one for each run of a conditioner
        self.entries, self.working = [], []  # storages of all layers' maps, and of one layer's
        self.most_stored_bytes = self.most_working_bytes = 0
        self.num_entries = 0
        self.fail_at = None  # the number of the entry that cannot be computed, or "write_cache"

    def compute_scale_shift(self, layer, camera_tokens):
        pair = super().compute_scale_shift(layer, camera_tokens)
        self.layers.append(layer)
        self.working += map(storage_of, pair)
        self.most_working_bytes = max(self.most_working_bytes, live_bytes(self.working))
        return pair

    def compute_frame_maps(self, camera_tokens):
        if self.num_entries == self.fail_at:
            raise MemoryError
        maps = super().compute_frame_maps(camera_tokens)
        self.num_entries += 1
        self.entries.append(storage_of(maps))
        self.most_stored_bytes = max(self.most_stored_bytes, live_bytes(self.entries))
        return maps

    def write_cache(self, x, chunk):
        if self.fail_at == "write_cache":
            raise MemoryError
        super().write_cache(x, chunk)

    @property
    def num_poses(self):
        """The number of runs through all blocks' conditioners."""
        assert all(self.layers.count(i) == self.layers.count(0) for i in set(self.layers))
        return self.layers.count(0)


def storage_of(tensor):
    return StorageWeakRef(tensor.untyped_storage()), tensor.untyped_storage().nbytes()


def live_bytes(storages):
    """The bytes of the storages that are still referenced; the others leave the list."""
    storages[:] = [one for one in storages if not one[0].expired()]
    return sum(num_bytes for _, num_bytes in storages)


def make_watched_model(**changes):
    torch.manual_seed(0)
    return WatchedModel(replace(SHAPE, **changes)).eval().requires_grad_(False)


def cache_of(model, entries):
    """A cache with room for so many entries."""
    return CameraCache(model, budget_bytes=int(entries * ENTRY_BYTES))


def pose_of(number):
    pose = np.eye(4)
    pose[:3, 3] = number, 0.0, 1.0
    return pose


def control_of(pose):
    return control_map("cam", pose[None], [""], default_intrinsics(**SIZE), **SIZE)[None]


def chunk(cache, poses, make_control=None):
    """The maps of a chunk of these poses, keyed as in the engine."""
    keys = [pose_key("cam", pose, "", default_intrinsics(**SIZE), **SIZE) for pose in poses]
    return cache.chunk(keys, make_control or (lambda i: control_of(poses[i])))


def copy_of(maps, num_frames=1):
    """All scales and shifts of a chunk's maps, [N, 2, B, F, T, C]."""
    layers = [torch.stack(maps.scale_shift(layer)) for layer in range(SHAPE.num_layers)]
    return torch.stack(layers).expand(-1, -1, -1, num_frames, -1, -1)


def visit(cache, *numbers):
    """The maps of a chunk of these poses, and how many of its latent frames were hits."""
    before = cache.stats.hits
    with chunk(cache, [pose_of(number) for number in numbers]) as maps:
        return copy_of(maps, len(numbers)), cache.stats.hits - before


def recompute(poses):
    """The slow twin: each latent frame alone, from its pose on."""
    model = make_watched_model()
    frames = []
    for pose in poses:
        tokens = model.embed_camera(control_of(pose))
        layers = [model.compute_scale_shift(layer, tokens) for layer in range(SHAPE.num_layers)]
        frames.append(torch.stack([torch.stack(pair) for pair in layers]))
    return torch.cat(frames, dim=3)
