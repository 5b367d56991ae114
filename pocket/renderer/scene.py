"""Seeded scenes: what stands where, in which conditions, and the words for it.

Units are those of the scene: the eye is 1 above the ground. OpenCV axes: x right, y down, z ahead.
A walk begins near the middle.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from pocket.renderer.conditions import (
    GROUND_WORDS,
    TIME_WORDS,
    WEATHER_WORDS,
    Colour,
    Conditions,
    draw_conditions,
)
from pocket.renderer.solids import BANDS, WINDOWS, Solid, box, gem, pyramid

PLACES = ("town", "pines", "grove", "lake", "plain")
REACH = 24.0  # nothing stands farther from the middle, each way
CLEARING = 1.6  # nothing stands nearer
BLOCK = 15.0  # from one street of a town to the next
STREET, PAVEMENT = (
    1.3,
    0.6,
)  # half the width of the carriageway; the width of the pavement beside it

PLACE_WORDS = {
    "town": ("a town", "streets and houses", "a village"),
    "pines": ("pine trees", "a pine forest", "firs"),
    "grove": ("leafy trees", "a grove", "round trees"),
    "lake": ("a lake", "by the water", "ponds"),
    "plain": ("open land", "a wide plain", "rocks"),
}
WALLS: tuple[Colour, ...] = (
    (0.92, 0.89, 0.82),
    (0.83, 0.62, 0.36),
    (0.66, 0.30, 0.22),
    (0.52, 0.60, 0.70),
    (0.74, 0.76, 0.55),
)
ROOFS: tuple[Colour, ...] = ((0.60, 0.24, 0.16), (0.28, 0.30, 0.36), (0.40, 0.27, 0.18))


@dataclass(frozen=True, slots=True)
class Footprint:
    """Where one cannot walk, or where the water is."""

    x: float
    z: float
    radius: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that the renderer draws."""

    seed: int
    place: str  # one of PLACES
    conditions: Conditions
    solids: tuple[Solid, ...]
    obstacles: tuple[Footprint, ...]
    lakes: tuple[Footprint, ...]
    streets: tuple[tuple[float, ...], tuple[float, ...]]  # x of those along z, z of those along x
    path: tuple[float, float] | None  # heading in radians and distance of a straight path
    sun_azimuth: float

    def under(self, conditions: Conditions) -> "Scene":
        """The same place in other conditions."""
        return replace(self, conditions=conditions)


def make_scene(seed: int) -> Scene:
    """Give the scene of this seed: always the same one."""
    random = Random(f"scene {seed}")
    conditions, place = draw_conditions(random), random.choice(PLACES)
    streets = _draw_streets(random) if place == "town" else ((), ())
    path = None
    if place != "town" and random.random() < 0.6:
        path = (random.uniform(0, math.pi), random.uniform(-1.5, 1.5))
    lakes = _draw_lakes(random, 7 if place == "lake" else 1 if random.random() < 0.3 else 0)
    if place == "town":
        lakes = ()
    ground = _Ground(streets, path, lakes)
    solids: list[Solid] = []
    obstacles: list[Footprint] = []
    kinds = _KINDS[place]
    for build, count, spacing in kinds:
        for _ in range(random.randint(*count)):
            spot = ground.draw_spot(random, spacing, obstacles)
            if spot is not None:
                solids += build(random, spot[0], spot[1], conditions)
                obstacles.append(Footprint(*spot, spacing))
    if place == "town":
        _build_houses(random, ground, solids, obstacles)
    return Scene(
        seed=seed,
        place=place,
        conditions=conditions,
        solids=tuple(solids),
        obstacles=tuple(obstacles),
        lakes=lakes,
        streets=streets,
        path=path,
        sun_azimuth=random.uniform(0, 2 * math.pi),
    )


def describe(
    scene: Scene, random: Random | None = None, *, changed_from: Conditions | None = None
) -> str:
    """Put a scene into words: "pine trees, snow, low sun, clear sky".

    With `random` in one of the ways that people have: other words, another order, something left
    out; but what has `changed_from` earlier conditions is always said.
    """
    conditions = scene.conditions
    words = {
        "place": PLACE_WORDS[scene.place],
        "ground": GROUND_WORDS[conditions.ground],
        "time": TIME_WORDS[conditions.time],
        "weather": WEATHER_WORDS[conditions.weather],
    }
    if random is None:
        return ", ".join(choices[0] for choices in words.values())
    said = []
    for name, choices in words.items():
        new = getattr(changed_from, name, None) != getattr(conditions, name, None)
        if random.random() < 0.85 or (changed_from is not None and new):
            said.append(random.choice(choices))
    random.shuffle(said)
    return ", ".join(said)


@dataclass(frozen=True, slots=True)
class _Ground:
    """What is kept free of solids."""

    streets: tuple[tuple[float, ...], tuple[float, ...]]
    path: tuple[float, float] | None
    lakes: tuple[Footprint, ...]

    def draw_spot(
        self, random: Random, radius: float, taken: list[Footprint]
    ) -> tuple[float, float] | None:
        """A place for something of this radius, or None where there is none."""
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
        if self.path is not None and abs(path_distance(self.path, x, z)) < 0.8 + radius:
            return False
        return all(math.hypot(x - lake.x, z - lake.z) > lake.radius + radius for lake in self.lakes)


def path_distance(path: tuple[float, float], x: float, z: float) -> float:
    """How far a point is from the middle of the path, and on which side."""
    heading, offset = path
    return x * math.cos(heading) - z * math.sin(heading) - offset


def _draw_streets(random: Random) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """One crosses the middle, or two do."""
    first = random.uniform(-0.4, 0.4)
    second = random.choice((random.uniform(-0.4, 0.4), random.uniform(4, BLOCK - 4)))
    lines = [
        tuple(first + BLOCK * i for i in (-1, 0, 1)),
        tuple(second + BLOCK * i for i in (-1, 0, 1)),
    ]
    random.shuffle(lines)
    return lines[0], lines[1]


def _draw_lakes(random: Random, most: int) -> tuple[Footprint, ...]:
    lakes = []
    for _ in range(most):
        radius, angle = random.uniform(1.5, 5), random.uniform(0, 2 * math.pi)
        away = radius + random.uniform(CLEARING + 0.4, 16)
        lakes.append(Footprint(away * math.sin(angle), away * math.cos(angle), radius))
    return tuple(lakes)


def _build_houses(
    random: Random, ground: _Ground, solids: list[Solid], obstacles: list[Footprint]
) -> None:
    """Rows of houses on both sides of every street."""
    for axis, lines in enumerate(ground.streets):
        for line in lines:
            for side in (-1, 1):
                along = -REACH + random.uniform(0, 3)
                while along < REACH:
                    width, depth = random.uniform(1.0, 1.8), random.uniform(0.9, 1.5)
                    away = line + side * (STREET + PAVEMENT + random.uniform(0.3, 0.9) + depth)
                    x, z = (away, along + width) if axis == 0 else (along + width, away)
                    half = (depth, width) if axis == 0 else (width, depth)
                    radius = max(half)
                    free = ground.is_free(x, z, radius) and not any(
                        math.hypot(x - other.x, z - other.z) < 0.85 * (radius + other.radius)
                        for other in obstacles
                    )
                    if free and random.random() < 0.85:
                        solids += _house(random, x, z, half)
                        obstacles.append(Footprint(x, z, radius))
                    along += 2 * width + random.uniform(0.3, 1.6)


def _house(random: Random, x: float, z: float, half: tuple[float, float]) -> list[Solid]:
    walls = _varied(random, random.choice(WALLS))
    glow = random.choice((0.0, 1.0, 1.0))
    if random.random() < 0.25:  # a tower with a flat roof
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
    return _house(random, x, z, (random.uniform(1, 1.6), random.uniform(1, 1.6)))


HILLS: dict[str, Colour] = {
    "grass": (0.30, 0.46, 0.20),
    "sand": (0.80, 0.64, 0.40),
    "snow": (0.90, 0.92, 0.96),
    "rock": (0.55, 0.30, 0.21),
}

_Builder = Callable[[Random, float, float, Conditions], list[Solid]]
# What stands in a place: its builder, least and most of them, the radius that each takes.
_KINDS: dict[str, tuple[tuple[_Builder, tuple[int, int], float], ...]] = {
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


def _varied(random: Random, colour: Colour) -> Colour:
    """A little brighter or darker, and a little off."""
    level = random.uniform(0.88, 1.12)
    red, green, blue = (min(1.0, level * c * random.uniform(0.94, 1.06)) for c in colour)
    return red, green, blue
