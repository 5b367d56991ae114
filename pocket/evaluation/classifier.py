"""A small network that classifies a frame's time of day, weather and ground.

It is trained on rendered frames. Shape letters: B frames, H W pixels.
"""

from dataclasses import dataclass
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocket.renderer.conditions import GROUNDS, TIMES, WEATHERS, Conditions, draw_conditions
from pocket.renderer.render import FrameSize, Renderer
from pocket.renderer.scene import make_scene
from pocket.training.clips import draw_walk, to_video
from pocket.training.config import SIZE

INPUT_SIZE = (32, 52)  # rows and columns of the network's input
NUM_VIEWS = 4  # frames of each walk
NUM_WALKS = 2  # through each training scene: painting its ground takes longer than eight views
# Training views are rendered at twice INPUT_SIZE: shrunk, they are nearly the same, and faster.
TRAINING_SIZE: FrameSize = {"width": 2 * INPUT_SIZE[1], "height": 2 * INPUT_SIZE[0]}
NUM_STEPS, BATCH_SIZE, PEAK_RATE = 2500, 64, 4e-3
CLASSES = {"time": TIMES, "weather": WEATHERS, "ground": GROUNDS}


@dataclass(frozen=True, slots=True)
class Classifier:
    network: nn.Module  # [B, 3, *INPUT_SIZE] -> concatenated logits of all CLASSES

    @torch.inference_mode()
    def classify(self, frames: Tensor) -> list[Conditions]:
        """Return the most likely conditions of each frame, uint8 [B, H, W, 3]."""
        logits = _split_logits(self.network(shrink(frames)))
        best = [part.argmax(1).tolist() for part in logits]
        return [
            Conditions(TIMES[time], WEATHERS[weather], GROUNDS[ground])
            for time, weather, ground in zip(*best, strict=True)
        ]


def train_classifier(*, num_scenes: int, first_seed: int) -> Classifier:
    """Train on views of these scenes. Each scene has conditions of its own."""
    torch.manual_seed(0)
    frames, conditions = draw_views(
        num_scenes, first_seed=first_seed, num_walks=NUM_WALKS, size=TRAINING_SIZE
    )
    inputs = shrink(frames)
    targets = [
        torch.tensor([names.index(getattr(own, kind)) for own in conditions])
        for kind, names in CLASSES.items()
    ]
    network = _build_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, NUM_STEPS, pct_start=0.1)
    for step in range(NUM_STEPS):
        rows = torch.randint(len(inputs), (BATCH_SIZE,))
        batch = inputs[rows].flip(-1) if step % 2 else inputs[rows]
        batch = batch + 0.02 * torch.rand(BATCH_SIZE, 1, 1, 1) * torch.randn(
            BATCH_SIZE, 3, *INPUT_SIZE
        )
        logits = _split_logits(network(batch))
        loss = torch.stack(
            [
                F.cross_entropy(part, target[rows])
                for part, target in zip(logits, targets, strict=True)
            ]
        ).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return Classifier(network.eval())


def draw_views(
    num_scenes: int, *, first_seed: int, num_walks: int = 1, size: FrameSize = SIZE
) -> tuple[Tensor, list[Conditions]]:
    """Render NUM_VIEWS frames along each walk through a scene, all in the same drawn conditions.

    Returns frames uint8 [B, H, W, 3] and the conditions of each.
    """
    frames, conditions = [], []
    for seed in range(first_seed, first_seed + num_scenes):
        random = Random(f"views {seed}")
        own = draw_conditions(random)
        scene = make_scene(seed).under(own)
        walks = [draw_walk(scene, random, 18).poses for _ in range(num_walks)]
        views = np.linspace(0, len(walks[0]) - 1, NUM_VIEWS).astype(int)
        poses = np.concatenate([walk[views] for walk in walks])
        frames.append(Renderer(scene).render(poses, **size))
        conditions += [own] * len(poses)
    return torch.cat(frames), conditions


def shrink(frames: Tensor) -> Tensor:
    """Shrink frames, uint8 [B, H, W, 3], to network inputs around 0, float [B, 3, *INPUT_SIZE]."""
    return F.interpolate(to_video(frames), size=INPUT_SIZE, mode="area") - 0.5


def _build_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 24, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(24, 48, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(48, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((2, 1)),
        nn.Flatten(),
        nn.Linear(128, sum(len(names) for names in CLASSES.values())),
    )


def _split_logits(logits: Tensor) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = logits.split([len(names) for names in CLASSES.values()], 1)
    return parts
