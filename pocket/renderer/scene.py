"""Scenes drawn from seeds: a layout, its objects and its conditions.

Lengths are in scene units: the eye is 1 above the ground. OpenCV axes: x right, y down, z ahead.
Walks begin near the middle.
"""

import math
from dataclasses import dataclass, replace
from random import Random

from pocket.renderer.conditions import Conditions, draw_conditions
from pocket.renderer.layout import PAVEMENT, REACH, STREET, Footprint, Layout, draw_layout
from pocket.renderer.objects import OBJECTS, build_house
from pocket.renderer.solids import Solid

PLACES = ("town", "pines", "grove", "lake", "plain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that the renderer draws."""

    seed: int
    place: str  # one of PLACES
    conditions: Conditions
    solids: tuple[Solid, ...]
    obstacles: tuple[Footprint, ...]
    lakes: tuple[Footprint, ...]
    streets: tuple[tuple[float, ...], tuple[float, ...]]  # x of those along z, z of those along x
    path: tuple[float, float] | None  # heading in radians and offset of a straight path
    sun_azimuth: float  # radians

    def under(self, conditions: Conditions) -> "Scene":
        """Return the same place in other conditions."""
        return replace(self, conditions=conditions)


def make_scene(seed: int) -> Scene:
    """Return the scene of a seed. A seed always gives the same scene."""
    random = Random(f"scene {seed}")
    conditions, place = draw_conditions(random), random.choice(PLACES)
    layout = draw_layout(random, place)
    solids: list[Solid] = []
    obstacles: list[Footprint] = []
    for build, count, spacing in OBJECTS[place]:
        for _ in range(random.randint(*count)):
            spot = layout.draw_spot(random, spacing, obstacles)
            if spot is not None:
                solids += build(random, spot[0], spot[1], conditions)
                obstacles.append(Footprint(*spot, spacing))
    if place == "town":
        _build_houses(random, layout, solids, obstacles)
    return Scene(
        seed=seed,
        place=place,
        conditions=conditions,
        solids=tuple(solids),
        obstacles=tuple(obstacles),
        lakes=layout.lakes,
        streets=layout.streets,
        path=layout.path,
        sun_azimuth=random.uniform(0, 2 * math.pi),
    )


def _build_houses(
    random: Random, layout: Layout, solids: list[Solid], obstacles: list[Footprint]
) -> None:
    """Append rows of houses on both sides of every street to `solids` and `obstacles`."""
    for axis, lines in enumerate(layout.streets):
        for line in lines:
            for side in (-1, 1):
                along = -REACH + random.uniform(0, 3)
                while along < REACH:
                    width, depth = random.uniform(1.0, 1.8), random.uniform(0.9, 1.5)
                    away = line + side * (STREET + PAVEMENT + random.uniform(0.3, 0.9) + depth)
                    x, z = (away, along + width) if axis == 0 else (along + width, away)
                    half = (depth, width) if axis == 0 else (width, depth)
                    if _fits(layout, x, z, max(half), obstacles) and random.random() < 0.85:
                        solids += build_house(random, x, z, half)
                        obstacles.append(Footprint(x, z, max(half)))
                    along += 2 * width + random.uniform(0.3, 1.6)


def _fits(layout: Layout, x: float, z: float, radius: float, obstacles: list[Footprint]) -> bool:
    """Return whether a house fits in. Houses may stand closer than their radii add up to."""
    return layout.is_free(x, z, radius) and not any(
        math.hypot(x - other.x, z - other.z) < 0.85 * (radius + other.radius) for other in obstacles
    )
