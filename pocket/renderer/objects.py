"""The objects of a scene, built from solids: houses, trees, rocks and hills.

Builders take the place of the object on the ground (x, z) and return its solids.

Tested in `tests/pocket/test_scene.py`.
"""

import math
from collections.abc import Callable
from random import Random

from pocket.renderer.conditions import Colour, Conditions
from pocket.renderer.solids import BANDS, WINDOWS, Solid, box, gem, pyramid

Builder = Callable[[Random, float, float, Conditions], list[Solid]]

WALLS: tuple[Colour, ...] = (
    (0.92, 0.89, 0.82),
    (0.83, 0.62, 0.36),
    (0.66, 0.30, 0.22),
    (0.52, 0.60, 0.70),
    (0.74, 0.76, 0.55),
)
ROOFS: tuple[Colour, ...] = ((0.60, 0.24, 0.16), (0.28, 0.30, 0.36), (0.40, 0.27, 0.18))
HILLS: dict[str, Colour] = {
    "grass": (0.30, 0.46, 0.20),
    "sand": (0.80, 0.64, 0.40),
    "snow": (0.90, 0.92, 0.96),
    "rock": (0.55, 0.30, 0.21),
}


def build_house(random: Random, x: float, z: float, half: tuple[float, float]) -> list[Solid]:
    """Build a house with a pitched roof, or a tower with a flat one. `half` as in `solids.box`."""
    walls = _varied(random, random.choice(WALLS))
    glow = random.choice((0.0, 1.0, 1.0))
    if random.random() < 0.25:  # a tower
        top = random.uniform(3.2, 5.5)
        return [box(x, z, half=half, yaw=0, top=top, colour=walls, pattern=WINDOWS, glow=glow)]
    top = random.uniform(1.5, 2.6)
    eaves = (half[0] + 0.15, half[1] + 0.15)
    ridge = top + random.uniform(0.7, 1.3)
    return [
        box(x, z, half=half, yaw=0, top=top, colour=walls, pattern=WINDOWS, glow=glow),
        pyramid(x, z, half=eaves, yaw=0, base=top, top=ridge, colour=random.choice(ROOFS)),
    ]


def _pine(random: Random, x: float, z: float, conditions: Conditions) -> list[Solid]:
    size, yaw = random.uniform(0.8, 1.5), random.uniform(0, math.pi)
    green = _varied(random, (0.13, 0.33, 0.17))
    if conditions.ground == "snow":
        green = (0.45, 0.56, 0.52)
    lower, upper = 0.75 * size, 0.55 * size
    return [
        box(x, z, half=(0.1, 0.1), yaw=yaw, top=0.6, colour=(0.33, 0.22, 0.14)),
        pyramid(
            x,
            z,
            half=(lower, lower),
            yaw=yaw,
            base=0.35,
            top=0.35 + 1.5 * size,
            colour=green,
            pattern=BANDS,
        ),
        pyramid(
            x,
            z,
            half=(upper, upper),
            yaw=yaw + 0.8,
            base=0.35 + 0.8 * size,
            top=0.35 + 2.2 * size,
            colour=green,
            pattern=BANDS,
        ),
    ]


def _tree(random: Random, x: float, z: float, conditions: Conditions) -> list[Solid]:
    size, yaw = random.uniform(0.5, 0.85), random.uniform(0, math.pi)
    leaves = random.choice(((0.30, 0.52, 0.16), (0.48, 0.56, 0.18), (0.76, 0.44, 0.14)))
    trunk = random.uniform(0.7, 1.1)
    return [
        box(x, z, half=(0.11, 0.11), yaw=yaw, top=trunk + 0.2, colour=(0.38, 0.27, 0.18)),
        gem(
            x,
            z,
            height=trunk + 0.9 * size,
            size=(size, 0.8 * size),
            yaw=yaw,
            colour=_varied(random, leaves),
        ),
    ]


def _rock(random: Random, x: float, z: float, conditions: Conditions) -> list[Solid]:
    size = random.uniform(0.25, 0.7)
    colour = _varied(random, (0.50, 0.48, 0.46))
    shape = (size, 0.7 * size)
    return [gem(x, z, height=0.1, size=shape, yaw=random.uniform(0, math.pi), colour=colour)]


def _hill(random: Random, x: float, z: float, conditions: Conditions) -> list[Solid]:
    size, height = random.uniform(2.5, 4.0), random.uniform(0.9, 1.9)
    colour = _varied(random, HILLS[conditions.ground])
    return [gem(x, z, height=0, size=(size, height), yaw=random.uniform(0, 3), colour=colour)]


def _barn(random: Random, x: float, z: float, conditions: Conditions) -> list[Solid]:
    return build_house(random, x, z, (random.uniform(1, 1.6), random.uniform(1, 1.6)))


def _varied(random: Random, colour: Colour) -> Colour:
    """Change the brightness by up to 12 % and each channel by up to 6 %."""
    level = random.uniform(0.88, 1.12)
    red, green, blue = (min(1.0, level * c * random.uniform(0.94, 1.06)) for c in colour)
    return red, green, blue


# The objects of each place: builder, least and greatest count, radius of each.
OBJECTS: dict[str, tuple[tuple[Builder, tuple[int, int], float], ...]] = {
    "town": ((_tree, (4, 14), 0.7),),
    "pines": ((_hill, (0, 2), 4.0), (_pine, (35, 70), 0.9), (_rock, (0, 8), 0.6)),
    "grove": ((_hill, (0, 2), 4.0), (_tree, (30, 60), 0.8), (_rock, (0, 6), 0.6)),
    "lake": (
        (_hill, (0, 2), 4.0),
        (_pine, (4, 14), 0.9),
        (_tree, (4, 14), 0.8),
        (_rock, (4, 14), 0.6),
    ),
    "plain": (
        (_hill, (2, 6), 4.0),
        (_barn, (0, 3), 1.7),
        (_rock, (10, 30), 0.6),
        (_tree, (0, 6), 0.8),
    ),
}
