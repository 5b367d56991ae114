"""Seeded scenes of the pocket world: a plain, a sky, and blocks standing around the walker.

Units are those of the scene: the eye is 1 above the ground. OpenCV axes: x right, y down, z ahead.
"""

import math
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

CELL = 4.0  # at most one block stands in each cell of this size
REACH = 6  # cells with blocks in each direction from the middle
CLEARING = 1.2  # no block comes closer to the middle, where a walk begins

TIMES = ("morning", "noon", "sunset", "night")
GROUNDS = ("checkered", "striped", "tiled")
DENSITIES = ("sparse", "crowded")

Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Palette:
    """What a time of day does to the colours. All in 0..1."""

    zenith: Colour
    horizon: Colour
    sun: Colour
    sun_height: float  # sine of its elevation
    light: Colour  # multiplies the colour of ground and blocks


PALETTES = {
    "morning": Palette(
        (0.45, 0.66, 0.90), (0.95, 0.88, 0.78), (1.0, 0.95, 0.8), 0.25, (1, 1, 0.95)
    ),
    "noon": Palette((0.25, 0.52, 0.92), (0.78, 0.88, 0.96), (1.0, 1.0, 0.9), 0.6, (1, 1, 1)),
    "sunset": Palette(
        (0.36, 0.28, 0.55), (0.98, 0.62, 0.38), (1.0, 0.85, 0.5), 0.1, (1, 0.82, 0.68)
    ),
    "night": Palette(
        (0.03, 0.05, 0.16), (0.16, 0.20, 0.38), (0.8, 0.85, 1.0), 0.4, (0.48, 0.54, 0.78)
    ),
}


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that the renderer draws, and the words for it."""

    prompt: str
    ground: str  # one of GROUNDS
    ground_colours: Tensor  # [2, 3]
    low: Tensor  # [N, 3], a corner of each block
    high: Tensor  # [N, 3], the opposite one
    colours: Tensor  # [N, 3]
    zenith: Tensor  # [3]
    horizon: Tensor  # [3], the colour of the fog too
    sun: Tensor  # [3]
    sun_direction: Tensor  # [3], unit


def make_scene(seed: int) -> Scene:
    """Give the scene of this seed: always the same one."""
    random = Random(f"scene {seed}")
    time, ground, density = random.choice(TIMES), random.choice(GROUNDS), random.choice(DENSITIES)
    palette = PALETTES[time]
    light = torch.tensor(palette.light)
    low, high, colours = _blocks(random, 0.25 if density == "sparse" else 0.55)
    first = _vivid(random, 0.55, 0.95)
    second = first * random.uniform(0.35, 0.55)
    azimuth, height = random.uniform(0, 2 * math.pi), palette.sun_height
    across = math.sqrt(1 - height**2)
    return Scene(
        prompt=describe(time=time, ground=ground, density=density),
        ground=ground,
        ground_colours=torch.stack([first, second]) * light,
        low=low,
        high=high,
        colours=colours * light,
        zenith=_jittered(random, palette.zenith),
        horizon=_jittered(random, palette.horizon),
        sun=torch.tensor(palette.sun),
        sun_direction=torch.tensor(
            [across * math.sin(azimuth), -height, across * math.cos(azimuth)]
        ),
    )


def describe(*, time: str, ground: str, density: str) -> str:
    """Put a scene's parameters into words: the prompt that it is trained with."""
    blocks = "a few coloured blocks" if density == "sparse" else "many coloured blocks"
    when = {
        "noon": "at noon",
        "night": "at night",
        "sunset": "at sunset",
        "morning": "in the morning",
    }
    return f"a walk over {ground} ground among {blocks} {when[time]}"


def _blocks(random: Random, share: float) -> tuple[Tensor, Tensor, Tensor]:
    low, high, colours = [], [], []
    for cell_x in range(-REACH, REACH):
        for cell_z in range(-REACH, REACH):
            half_x, half_z = random.uniform(0.35, 1.2), random.uniform(0.35, 1.2)
            x = (cell_x + 0.5) * CELL + random.uniform(-1, 1) * (CELL / 2 - half_x)
            z = (cell_z + 0.5) * CELL + random.uniform(-1, 1) * (CELL / 2 - half_z)
            height = random.uniform(0.4, 2.2) if random.random() < 0.85 else random.uniform(2.2, 4)
            colour = _vivid(random, 0.45, 1.0)
            clear = max(abs(x) - half_x, abs(z) - half_z) > CLEARING
            if random.random() < share and clear:
                low.append([x - half_x, 1 - height, z - half_z])
                high.append([x + half_x, 1.0, z + half_z])
                colours.append(colour)
    return torch.tensor(low), torch.tensor(high), torch.stack(colours)


def _vivid(random: Random, dark: float, bright: float) -> Tensor:
    """A colour of any hue, [3]."""
    hue, value, depth = random.random(), random.uniform(dark, bright), random.uniform(0.35, 0.85)
    phases = torch.tensor([0.0, 1 / 3, 2 / 3])
    wave = (0.5 + torch.cos(2 * math.pi * (hue - phases))).clamp(0, 1)
    return value * (1 - depth * (1 - wave))


def _jittered(random: Random, colour: Colour) -> Tensor:
    return torch.tensor([channel + random.uniform(-0.06, 0.06) for channel in colour]).clamp(0, 1)
