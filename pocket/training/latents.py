"""The dataset as the DiT sees it: normalised latents, image conditions and Plücker maps.

There are two sizes. The small one shows the same world in a quarter of the tokens, and is learnt
first. Shape letters: N clips, K chunks, F latent frames, h w latent pixels, U distinct poses.

Tested in `tests/pocket/test_batch.py`.
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
from lingbot.config import POCKET
from lingbot.vae.codec import LatentCodec
from lingbot.vae.tiny import repeat_first
from pocket.renderer.conditions import Conditions
from pocket.renderer.render import FrameSize
from pocket.renderer.scene import make_scene
from pocket.training.checkpoint import save_complete
from pocket.training.clips import mirror_frames, mirror_relatives, resize, to_video
from pocket.training.dataset import DATASET, shard_paths
from pocket.training.run import DeadlineReached, RunContext

LATENTS = "latents"  # folder in a run's folder
CLIPS_PER_BATCH = 5
MIN_CONTRAST = 0.35  # times the median contrast; clips below it show nearly nothing

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LatentDataset:
    """Clips for the DiT. A mirrored clip counts as a clip."""

    latents: Tensor  # [N, 16, F, h, w] in half precision, as conditions and maps
    conditions: Tensor  # [N, 16, 6, h, w]: those of the first chunk, then those of later ones
    poses: Tensor  # [N, F], rows of `maps`
    maps: Tensor  # [U, 384, h, w]
    prompts: list[list[str]]  # N of K
    same_conditions: list[list[int]]  # N; clips that begin in the same conditions, itself included
    rope_scale: tuple[float, float]  # as in `TrainingConfig.rope_scale`

    @cached_property
    def high_motion(self) -> list[int]:
        """The half of the clips whose latents change most from frame to frame."""
        changes = [clip.float().diff(dim=1).square().mean() for clip in self.latents]
        order = torch.stack(changes).argsort(descending=True).tolist()
        return order[: (len(order) + 1) // 2]

    @cached_property
    def contrast(self) -> Tensor:
        """The contrast of each clip relative to the median clip, [N] float.

        It is the root mean square difference of neighbouring latent pixels. A foggy night has two
        fifths of the contrast of a bright noon.
        """
        differences = [
            torch.stack([clip.float().diff(dim=axis).square().mean() for axis in (-1, -2)]).mean()
            for clip in self.latents
        ]
        contrast = torch.stack(differences).sqrt()
        return (contrast / contrast.median()).clamp(min=MIN_CONTRAST)


def load_latents(run: RunContext, size: str) -> LatentDataset:
    """Load all latents of a size, a key of `TrainingConfig.sizes`, to the run's device."""
    paths = shard_paths(run.folder / LATENTS / size)
    shards = [torch.load(path, weights_only=True) for path in paths]
    relatives = torch.cat([shard["relatives"] for shard in shards]).numpy()
    maps, poses = distinct_maps(relatives, run.config.sizes[size])
    return LatentDataset(
        latents=torch.cat([shard["latents"] for shard in shards]).to(run.device),
        conditions=torch.cat([shard["conditions"] for shard in shards]).to(run.device),
        poses=poses,
        maps=maps.to(run.device),
        prompts=[prompts for shard in shards for prompts in shard["prompts"]],
        same_conditions=_group_by_conditions([seed for shard in shards for seed in shard["seeds"]]),
        rope_scale=run.config.rope_scale(size),
    )


def _group_by_conditions(seeds: list[int]) -> list[list[int]]:
    groups = defaultdict[Conditions, list[int]](list)
    conditions = [make_scene(seed).conditions for seed in seeds]
    for number, own in enumerate(conditions):
        groups[own].append(number)
    return [groups[own] for own in conditions]


def encode_dataset(run: RunContext, size: str) -> None:
    """Encode the run's dataset and its mirror images; resume where an earlier run stopped.

    A mirrored clip costs less than rendering a new one. With few clips the DiT learns them by
    heart. Raises DeadlineReached.
    """
    path = run.folder / "whitened.safetensors"
    codec = LatentCodec.load(path, device=run.device, dtype=torch.float32)
    target_folder = run.folder / LATENTS / size
    target_folder.mkdir(parents=True, exist_ok=True)
    for source in shard_paths(run.folder / DATASET):
        for mirrored in (False, True):
            target = target_folder / f"{source.stem}{'_mirrored' * mirrored}.pt"
            if not target.exists():
                if run.deadline_passed:
                    raise DeadlineReached
                shard = torch.load(source, weights_only=True)
                encoded = _encode_shard(run, shard, codec, size=size, mirrored=mirrored)
                save_complete(target, encoded)
                logger.info("encoded %s %s", size, target.stem)


@torch.inference_mode()
def _encode_shard(
    run: RunContext, shard: dict[str, Any], codec: LatentCodec, *, size: str, mirrored: bool
) -> dict[str, Any]:
    frames, relatives = shard["frames"], shard["relatives"]
    if mirrored:
        frames, relatives = mirror_frames(frames), mirror_relatives(relatives)
    latents, conditions = [], []
    for batch in frames.split(CLIPS_PER_BATCH):
        video = resize(to_video(batch.to(run.device)), run.config.sizes[size])
        with run.autocast():
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
    """Load the autoencoder of a run with its last trained decoder."""
    path = folder / "tiny_vae.safetensors"
    if not path.exists():
        path = folder / "whitened.safetensors"
    return LatentCodec.load(path, device=device, dtype=torch.float32)


def distinct_maps(relatives: Poses, size: FrameSize) -> tuple[Tensor, Tensor]:
    """Return the Plücker maps of the distinct relative poses, and the map of each pose as a row.

    `relatives` [N, F, 4, 4] -> maps [U, 384, h, w], rows [N, F]. Walks have few distinct relative
    poses, because these depend on the keys and the pitch alone.
    """
    rounded = np.round(relatives.reshape(-1, 16), 9) + 0.0  # -0.0 becomes 0.0
    distinct, rows = np.unique(rounded, axis=0, return_inverse=True)
    maps = plucker_map(distinct.reshape(-1, 4, 4), default_intrinsics(**size), **size)
    return maps.transpose(0, 1).half(), torch.from_numpy(rows.reshape(relatives.shape[:-2]))
