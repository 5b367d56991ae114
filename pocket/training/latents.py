"""The training clips as the DiT sees them: normalised latents, image conditions, Plücker maps.

At two sizes: the small one shows the same world in a quarter of the tokens, and is learnt first.

Shape letters: N clips, K chunks, F latent frames, h w latent pixels, U distinct poses.
"""

import logging
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lingbot.camera.motion import Poses
from lingbot.camera.rays import default_intrinsics, plucker_map
from lingbot.config import PATCH, POCKET, SPATIAL_STRIDE
from lingbot.vae.codec import LatentCodec
from lingbot.vae.tiny import repeat_first
from pocket.renderer.conditions import Conditions
from pocket.renderer.scene import make_scene
from pocket.training.data import (
    SIZE,
    mirror_frames,
    mirror_relatives,
    resize,
    shard_paths,
    to_video,
)
from pocket.training.run import Machine, OutOfTime, save_whole
from pocket.training.vae import CROP

CLIPS_AT_ONCE = 5
LEAST_CONTRAST = 0.35  # of the middle clip's: what shows less is nearly nothing
SIZES = {"small": CROP[::-1], "full": (SIZE["width"], SIZE["height"])}  # width and height

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LatentBank:
    """Clips for the DiT; mirrored ones are clips of their own."""

    latents: Tensor  # [N, 16, F, h, w] half precision, as the rest
    conditions: Tensor  # [N, 16, 6, h, w]: those of the first chunk, then those of all later ones
    poses: Tensor  # [N, F], rows of `maps`
    maps: Tensor  # [U, 384, h, w]
    prompts: list[list[str]]  # N of K
    kin: list[list[int]]  # N; the clips that begin in the same conditions, oneself among them

    @cached_property
    def lively(self) -> list[int]:
        """The half of the clips whose latents change most from frame to frame."""
        changes = [clip.float().diff(dim=1).square().mean() for clip in self.latents]
        order = torch.stack(changes).argsort(descending=True).tolist()
        return order[: (len(order) + 1) // 2]

    @cached_property
    def contrast(self) -> Tensor:
        """How much there is to be seen in each clip, [N] float: 1 in the middle one.

        By what neighbouring latent pixels differ: a foggy night's by two fifths of a bright noon's.
        """
        steps = [
            torch.stack([clip.float().diff(dim=axis).square().mean() for axis in (-1, -2)]).mean()
            for clip in self.latents
        ]
        size = torch.stack(steps).sqrt()
        return (size / size.median()).clamp(min=LEAST_CONTRAST)

    @property
    def rope_scale(self) -> tuple[float, float]:
        """How far apart its tokens are, rows and columns, in tokens of the full size."""
        stride = SPATIAL_STRIDE * PATCH
        rows, columns = (size * SPATIAL_STRIDE / stride for size in self.latents.shape[-2:])
        return SIZE["height"] / stride / rows, SIZE["width"] / stride / columns


def load_latents(folder: Path, size: str, *, device: torch.device) -> LatentBank:
    """All shards of folder/latents of a size, one of SIZES."""
    paths = shard_paths(folder / "latents" / size)
    shards = [torch.load(path, weights_only=True) for path in paths]
    relatives = torch.cat([shard["relatives"] for shard in shards]).numpy()
    maps, poses = distinct_maps(relatives, *SIZES[size])
    return LatentBank(
        latents=torch.cat([shard["latents"] for shard in shards]).to(device),
        conditions=torch.cat([shard["conditions"] for shard in shards]).to(device),
        poses=poses,
        maps=maps.to(device),
        prompts=[prompts for shard in shards for prompts in shard["prompts"]],
        kin=_find_kin([seed for shard in shards for seed in shard["seeds"]]),
    )


def _find_kin(seeds: list[int]) -> list[list[int]]:
    families = defaultdict[Conditions, list[int]](list)
    conditions = [make_scene(seed).conditions for seed in seeds]
    for number, own in enumerate(conditions):
        families[own].append(number)
    return [families[own] for own in conditions]


def encode_bank(folder: Path, size: str, machine: Machine) -> None:
    """Encode folder/bank to folder/latents, as it is and mirrored; go on where a run stopped.

    A mirror image is a walk more, for less than a new one's rendering; with few, the DiT learns
    them by heart.
    """
    codec = LatentCodec.load(
        folder / "whitened.safetensors", device=machine.device, dtype=torch.float32
    )
    target_folder = folder / "latents" / size
    target_folder.mkdir(parents=True, exist_ok=True)
    for source in shard_paths(folder / "bank"):
        for mirrored in (False, True):
            target = target_folder / f"{source.stem}{'_mirrored' * mirrored}.pt"
            if not target.exists():
                if machine.out_of_time:
                    raise OutOfTime
                shard = torch.load(source, weights_only=True)
                encoded = _encode_shard(shard, codec, machine, size=size, mirrored=mirrored)
                save_whole(target, encoded)
                logger.info("encoded %s %s", size, target.stem)


@torch.inference_mode()
def _encode_shard(
    shard: dict[str, Any], codec: LatentCodec, machine: Machine, *, size: str, mirrored: bool
) -> dict[str, Any]:
    frames, relatives = shard["frames"], shard["relatives"]
    if mirrored:
        frames, relatives = mirror_frames(frames), mirror_relatives(relatives)
    latents, conditions = [], []
    for some in frames.split(CLIPS_AT_ONCE):
        video = resize(to_video(some.to(machine.device)), SIZES[size][::-1])
        with machine.autocast():
            latents.append(codec.encode(repeat_first(video)).half().cpu())
            condition = codec.encode_condition(video[:, 0], chunk=POCKET.chunk)
            conditions.append(condition.half().cpu())
    return {
        "latents": torch.cat(latents),
        "conditions": torch.cat(conditions),
        "relatives": relatives,
        "prompts": shard["prompts"],
        "seeds": shard["seeds"],
    }


def load_codec(folder: Path, *, device: torch.device) -> LatentCodec:
    """With the last decoder there is."""
    path = folder / "tiny_vae.safetensors"
    if not path.exists():
        path = folder / "whitened.safetensors"
    return LatentCodec.load(path, device=device, dtype=torch.float32)


def distinct_maps(relatives: Poses, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Relative poses [N, F, 4, 4] -> the Plücker maps of the distinct ones, and their rows [N, F].

    Walks know few poses: they depend on the keys and the pitch alone.
    """
    rounded = np.round(relatives.reshape(-1, 16), 9) + 0.0  # one zero, not two
    distinct, rows = np.unique(rounded, axis=0, return_inverse=True)
    size = {"width": width, "height": height}
    maps = plucker_map(distinct.reshape(-1, 4, 4), default_intrinsics(**size), **size)
    return maps.transpose(0, 1).half(), torch.from_numpy(rows.reshape(relatives.shape[:-2]))
