"""The training clips as the DiT sees them: normalised latents, image conditions, Plücker maps.

Shape letters: N clips, F latent frames, h w latent pixels, U distinct poses.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lingbot.camera import Poses, default_intrinsics, plucker_map
from lingbot.config import POCKET
from lingbot.frame_codec import FrameCodec
from lingbot.pocket.data import mirror_frames, mirror_relatives, shard_paths
from lingbot.pocket.run import save_checkpoint
from lingbot.pocket.train_vae import to_video
from lingbot.tiny_vae import repeat_first

CLIPS_AT_ONCE = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LatentBank:
    """Clips for the DiT; mirrored ones are clips of their own."""

    latents: Tensor  # [N, 16, F, h, w] half precision, as the rest
    conditions: Tensor  # [N, 16, 6, h, w]: those of the first chunk, then those of all later ones
    poses: Tensor  # [N, F], rows of `maps`
    maps: Tensor  # [U, 384, h, w]
    prompts: list[str]  # N


def load_latents(folder: Path) -> LatentBank:
    """All shards of folder/latents."""
    shards = [torch.load(path, weights_only=True) for path in shard_paths(folder / "latents")]
    maps, poses = distinct_maps(torch.cat([shard["relatives"] for shard in shards]).numpy())
    return LatentBank(
        latents=torch.cat([shard["latents"] for shard in shards]),
        conditions=torch.cat([shard["conditions"] for shard in shards]),
        poses=poses,
        maps=maps,
        prompts=[prompt for shard in shards for prompt in shard["prompts"]],
    )


def encode_bank(folder: Path, *, mirrored: bool) -> None:
    """Encode folder/bank to folder/latents; go on where a run stopped."""
    codec = load_codec(folder)
    (folder / "latents").mkdir(exist_ok=True)
    for source in shard_paths(folder / "bank"):
        name = f"{source.stem}_mirrored.pt" if mirrored else source.name
        target = folder / "latents" / name
        if not target.exists():
            shard = torch.load(source, weights_only=True)
            save_checkpoint(target, _encode_shard(shard, codec, mirrored=mirrored))
            logger.info("encoded %s", name)


@torch.inference_mode()
def _encode_shard(shard: dict[str, Any], codec: FrameCodec, *, mirrored: bool) -> dict[str, Any]:
    frames, relatives = shard["frames"], shard["relatives"]
    if mirrored:
        frames, relatives = mirror_frames(frames), mirror_relatives(relatives)
    latents, conditions = [], []
    for some in frames.split(CLIPS_AT_ONCE):
        video = to_video(some)
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(codec.encode(repeat_first(video)).half())
            conditions.append(codec.encode_condition(video[:, 0], chunk=POCKET.chunk).half())
    return {
        "latents": torch.cat(latents),
        "conditions": torch.cat(conditions),
        "relatives": relatives,
        "prompts": shard["prompts"],
    }


def load_codec(folder: Path) -> FrameCodec:
    path = folder / "tiny_vae.safetensors"
    return FrameCodec.load(path, device=torch.device("cpu"), dtype=torch.float32)


def distinct_maps(relatives: Poses) -> tuple[Tensor, Tensor]:
    """Relative poses [N, F, 4, 4] -> the Plücker maps of the distinct ones, and their rows [N, F].

    Walks know few poses: they depend on the keys and the pitch alone.
    """
    rounded = np.round(relatives.reshape(-1, 16), 9) + 0.0  # one zero, not two
    distinct, rows = np.unique(rounded, axis=0, return_inverse=True)
    size = {"width": POCKET.width, "height": POCKET.height}
    maps = plucker_map(distinct.reshape(-1, 4, 4), default_intrinsics(**size), **size)
    return maps.transpose(0, 1).half(), torch.from_numpy(rows.reshape(relatives.shape[:-2]))
