"""Tells a picture's hour, weather and ground: a small network trained on the renderer's pictures.

Shape letters: B pictures, H W pixels.
"""

from dataclasses import dataclass
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocket.renderer.conditions import GROUNDS, TIMES, WEATHERS, Conditions, draw_conditions
from pocket.renderer.render import Renderer
from pocket.renderer.scene import make_scene
from pocket.training.data import SIZE as FRAME_SIZE
from pocket.training.data import draw_walk, to_video

SIZE = (32, 52)  # rows and columns that it looks at
VIEWS = 4  # pictures of each walk
WALKS = 2  # through each training scene: its ground takes longer to paint than eight views
# Training draws its views at twice SIZE: they shrink to nearly the same pictures, sooner.
TRAINING_SIZE = {"width": 2 * SIZE[1], "height": 2 * SIZE[0]}
STEPS, BATCH, RATE = 2500, 64, 4e-3
KINDS = {"time": TIMES, "weather": WEATHERS, "ground": GROUNDS}


@dataclass(frozen=True, slots=True)
class Classifier:
    network: nn.Module  # [B, 3, *SIZE] -> logits of all KINDS, one after another

    @torch.inference_mode()
    def classify(self, frames: Tensor) -> list[Conditions]:
        """uint8 [B, H, W, 3] -> the conditions that each is most likely seen in."""
        answers = self.network(shrink(frames)).split([len(names) for names in KINDS.values()], 1)
        best = [answer.argmax(1).tolist() for answer in answers]
        return [
            Conditions(TIMES[time], WEATHERS[weather], GROUNDS[ground])
            for time, weather, ground in zip(*best, strict=True)
        ]


def train_classifier(*, num_scenes: int, first_seed: int) -> Classifier:
    """Learn from the pictures of these scenes, each in conditions of its own."""
    torch.manual_seed(0)
    frames, conditions = draw_views(
        num_scenes, first_seed=first_seed, num_walks=WALKS, size=TRAINING_SIZE
    )
    pictures = shrink(frames)
    targets = [
        torch.tensor([names.index(getattr(own, kind)) for own in conditions])
        for kind, names in KINDS.items()
    ]
    network = nn.Sequential(
        nn.Conv2d(3, 24, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(24, 48, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(48, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((2, 1)),
        nn.Flatten(),
        nn.Linear(128, sum(len(names) for names in KINDS.values())),
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.1)
    for step in range(STEPS):
        chosen = torch.randint(len(pictures), (BATCH,))
        batch = pictures[chosen].flip(-1) if step % 2 else pictures[chosen]
        batch = batch + 0.02 * torch.rand(BATCH, 1, 1, 1) * torch.randn(BATCH, 3, *SIZE)
        answers = network(batch).split([len(names) for names in KINDS.values()], 1)
        loss = torch.stack(
            [F.cross_entropy(a, t[chosen]) for a, t in zip(answers, targets, strict=True)]
        ).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return Classifier(network.eval())


def draw_views(
    num_scenes: int, *, first_seed: int, num_walks: int = 1, size: dict[str, int] = FRAME_SIZE
) -> tuple[Tensor, list[Conditions]]:
    """VIEWS along each walk through a scene, all under its own conditions.

    Pictures uint8 [B, H, W, 3], and what each is seen in.
    """
    frames, conditions = [], []
    for seed in range(first_seed, first_seed + num_scenes):
        random = Random(f"views {seed}")
        own = draw_conditions(random)
        scene = make_scene(seed).under(own)
        walks = [draw_walk(scene, random, 18)[2] for _ in range(num_walks)]
        chosen = np.linspace(0, len(walks[0]) - 1, VIEWS).astype(int)
        poses = np.concatenate([walk[chosen] for walk in walks])
        frames.append(Renderer(scene).render(poses, **size))
        conditions += [own] * len(poses)
    return torch.cat(frames), conditions


def shrink(frames: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, *SIZE] around 0."""
    return F.interpolate(to_video(frames), size=SIZE, mode="area") - 0.5
