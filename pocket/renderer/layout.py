"""The layout of a scene: streets, a path and lakes, which stay free of objects.

Units and axes are those of `scene`.

Tested in `tests/pocket/test_scene.py`.
"""

import math
from dataclasses import dataclass
from random import Random

REACH = 24.0  # greatest distance of an object from the middle, along each axis
CLEARING = 1.6  # least distance of an object from the middle
BLOCK = 15.0  # distance between neighbouring streets of a town
STREET = 1.3  # half the width of the carriageway
PAVEMENT = 0.6  # width of the pavement on each side


@dataclass(frozen=True, slots=True)
class Footprint:
    """A circle on the ground that an object or a lake covers."""

    x: float
    z: float
    radius: float


@dataclass(frozen=True, slots=True)
class Layout:
    """Streets, path and lakes, on which no object stands."""

    streets: tuple[tuple[float, ...], tuple[float, ...]]  # x of those along z, z of those along x
    path: tuple[float, float] | None  # heading in radians and offset
    lakes: tuple[Footprint, ...]

    def draw_spot(
        self, random: Random, radius: float, taken: list[Footprint]
    ) -> tuple[float, float] | None:
        """Draw a free place for an object of this radius. Return None after eight tries."""
        for _ in range(8):
            x, z = random.uniform(-REACH, REACH), random.uniform(-REACH, REACH)
            if self.is_free(x, z, radius) and not any(
                math.hypot(x - other.x, z - other.z) < radius + other.radius for other in taken
            ):
                return x, z
        return None

    def is_free(self, x: float, z: float, radius: float) -> bool:
        if math.hypot(x, z) < CLEARING + radius:
            return False
        along_z, along_x = self.streets
        side = STREET + PAVEMENT + radius
        if any(abs(x - at) < side for at in along_z) or any(abs(z - at) < side for at in along_x):
            return False
        if self.path is not None and abs(_path_distance(self.path, x, z)) < 0.8 + radius:
            return False
        return all(math.hypot(x - lake.x, z - lake.z) > lake.radius + radius for lake in self.lakes)


def draw_layout(random: Random, place: str) -> Layout:
    """Draw the layout of a place, one of `scene.PLACES`. Only towns have streets."""
    streets = _draw_streets(random) if place == "town" else ((), ())
    path = None
    if place != "town" and random.random() < 0.6:
        path = (random.uniform(0, math.pi), random.uniform(-1.5, 1.5))
    lakes = _draw_lakes(random, 7 if place == "lake" else 1 if random.random() < 0.3 else 0)
    return Layout(streets, path, () if place == "town" else lakes)


def _path_distance(path: tuple[float, float], x: float, z: float) -> float:
    """Return the signed distance of a point from the middle of the path."""
    heading, offset = path
    return x * math.cos(heading) - z * math.sin(heading) - offset


def _draw_streets(random: Random) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Draw a grid of streets. One or two of them cross the middle."""
    first = random.uniform(-0.4, 0.4)
    second = random.choice((random.uniform(-0.4, 0.4), random.uniform(4, BLOCK - 4)))
    lines = [
        tuple(first + BLOCK * i for i in (-1, 0, 1)),
        tuple(second + BLOCK * i for i in (-1, 0, 1)),
    ]
    random.shuffle(lines)
    return lines[0], lines[1]


def _draw_lakes(random: Random, num_lakes: int) -> tuple[Footprint, ...]:
    lakes = []
    for _ in range(num_lakes):
        radius, angle = random.uniform(1.5, 5), random.uniform(0, 2 * math.pi)
        away = radius + random.uniform(CLEARING + 0.4, 16)
        lakes.append(Footprint(away * math.sin(angle), away * math.cos(angle), radius))
    return tuple(lakes)
