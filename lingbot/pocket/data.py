"""The training clips: rendered once and kept on disk in shards."""

import logging
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor

from lingbot.camera import Poses
from lingbot.config import POCKET
from lingbot.pocket.render import render
from lingbot.pocket.scene import make_scene
from lingbot.pocket.trajectory import random_actions, walk

LATENT_FRAMES = 18  # of a clip: 69 frames
CLIPS_A_SHARD = 50
FIRST_HELD_OUT_SEED = 1_000_000  # training never sees a scene from here on

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clip:
    """A walk through a scene that nobody else has."""

    prompt: str
    actions: list[str]  # of each latent frame
    relatives: Poses  # [T, 4, 4], as the model sees them
    frames: Tensor  # uint8 [4T - 3, H, W, 3]


def make_clip(seed: int, *, num_latent_frames: int = LATENT_FRAMES) -> Clip:
    """Render the walk of this seed: always the same one."""
    random = Random(f"walk {seed}")
    scene = make_scene(seed)
    actions = random_actions(random, num_latent_frames)
    start = (random.uniform(-0.5, 0.5), random.uniform(-0.5, 0.5), random.uniform(0, 360))
    relatives, poses = walk(actions, start=start)
    frames = render(scene, poses, width=POCKET.width, height=POCKET.height)
    return Clip(scene.prompt, actions, relatives, frames)


def render_bank(folder: Path, *, num_clips: int, seed: int) -> None:
    """Write the clips of seeds `seed`, `seed` + 1, ... to `folder`; go on where a run stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(seed, seed + num_clips, CLIPS_A_SHARD):
        path = folder / f"{first:07}.pt"
        if path.exists():
            continue
        clips = [make_clip(first + i) for i in range(CLIPS_A_SHARD)]
        shard = {
            "prompts": [clip.prompt for clip in clips],
            "relatives": torch.from_numpy(np.stack([clip.relatives for clip in clips])),
            "frames": torch.stack([clip.frames for clip in clips]),
        }
        unfinished = path.with_suffix(".unfinished")
        torch.save(shard, unfinished)
        unfinished.rename(path)
        logger.info("rendered clips %d to %d", first, first + CLIPS_A_SHARD - 1)


def shard_paths(folder: Path) -> list[Path]:
    """The finished shards of a bank, in the order of their seeds."""
    return sorted(folder.glob("*.pt"))


def mirror_frames(frames: Tensor) -> Tensor:
    """[..., H, W, 3] seen in a mirror."""
    return frames.flip(-2)


def mirror_relatives(relatives: Tensor) -> Tensor:
    """[..., 4, 4] in a mirror: x changes its sign on both sides."""
    mirror = torch.diag(torch.tensor([-1, 1, 1, 1], dtype=relatives.dtype))
    return mirror @ relatives @ mirror
