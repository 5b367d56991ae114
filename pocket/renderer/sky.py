"""The sky of a scene as a function of direction.

Shape letters: P directions.

Tested in `tests/pocket/test_render.py`.
"""

import math
from dataclasses import dataclass
from random import Random
from typing import Self

import torch
from torch import Tensor

from pocket.renderer.conditions import Light
from pocket.renderer.objects import HILLS
from pocket.renderer.scene import Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class Sky:
    """A gradient with the sun and its glow, mountains, and clouds on a plane far above."""

    zenith: Tensor  # [3], like all colours here
    horizon: Tensor
    sun: Tensor
    sun_direction: Tensor  # [3], unit length
    mountains: Tensor
    cloud: Tensor
    ridges: Tensor  # [R, 3]: frequency, phase, height
    waves: Tensor  # [W, 3]: frequencies along x and z, phase
    cover: float  # share of the sky under clouds
    haze: float  # share of the mountains' colour that is left in the haze

    @classmethod
    def of(cls, scene: Scene, light: Light, device: torch.device) -> Self:
        random = Random(f"sky {scene.seed}")
        across, azimuth = math.sqrt(1 - light.elevation**2), scene.sun_azimuth
        ridges = [
            (k, random.uniform(0, 2 * math.pi), random.uniform(0.25, 1) / k**0.8)
            for k in (2, 3, 5, 8, 13, 21)
        ]
        waves = []
        for size in (0.9, 1.3, 2.1, 2.9, 4.3):
            heading = random.uniform(0, 2 * math.pi)
            phase = random.uniform(0, 2 * math.pi)
            waves.append((size * math.cos(heading), size * math.sin(heading), phase))
        level = [a + 0.6 * d for a, d in zip(light.ambient, light.direct, strict=True)]
        stone = [0.8 * c * b for c, b in zip(HILLS[scene.conditions.ground], level, strict=True)]

        def vector(numbers: object) -> Tensor:
            return torch.tensor(numbers, device=device)

        return cls(
            zenith=vector(light.zenith),
            horizon=vector(light.horizon),
            sun=vector(light.sun),
            sun_direction=vector(
                (across * math.sin(azimuth), -light.elevation, across * math.cos(azimuth))
            ),
            mountains=vector(stone),
            cloud=vector(
                [min(1.0, 0.25 * h + 0.8 * b) for h, b in zip(light.horizon, level, strict=True)]
            ),
            ridges=vector(ridges),
            waves=vector(waves),
            cover=light.clouds,
            haze=math.exp(-14 / light.fog),
        )

    def colours(self, direction: Tensor) -> Tensor:
        """Return the colours [P, 3] in unit directions [3, P]."""
        x, y, z = direction
        up = (-y).clamp(min=0)
        sky = torch.lerp(self.horizon, self.zenith, (1.5 * up).clamp(max=1).sqrt()[:, None])
        if self.cover:
            plane = torch.stack([x, z]) / (up + 0.18)
            wave = torch.sin(self.waves[:, :2] @ plane + self.waves[:, 2:]).mean(0) * 1.6
            dense = ((wave + self.cover - 0.45) * 2.2).clamp(0, 1) * (up * 6).clamp(max=1)
            sky = torch.lerp(sky, self.cloud.expand_as(sky), 0.75 * dense[:, None])
        towards = (self.sun_direction @ direction).clamp(min=0)
        glow = (0.4 * towards**10 + 1.2 * towards**400).clamp(max=1)[:, None]
        sky = torch.lerp(sky, self.sun.expand_as(sky), glow)
        azimuth = torch.atan2(x, z)
        ridge = torch.sin(self.ridges[:, :1] * azimuth + self.ridges[:, 1:2]) * self.ridges[:, 2:]
        height = 0.05 + 0.055 * ridge.sum(0).abs()
        rock = ((height - up) * 130 + 0.5).clamp(0, 1)[:, None]
        foot = (self.haze * (0.4 + 0.6 * (up / 0.06).clamp(max=1)))[:, None]
        return torch.lerp(sky, torch.lerp(self.horizon, self.mountains, foot), rock)
