"""Convex solids: what stands on the ground is the intersection of half-spaces.

OpenCV axes, the eye at height 1: x right, y down, z ahead, the ground at y = 1. A point p is inside
where normal . p <= offset for every face.
"""

import math
from dataclasses import dataclass

Point = tuple[float, float, float]
Colour = tuple[float, float, float]

PLAIN, WINDOWS, BANDS = 0, 1, 2  # what is drawn on the faces


@dataclass(frozen=True, slots=True)
class Solid:
    normals: list[Point]  # unit, outwards, one of each face
    offsets: list[float]
    centre: Point  # of a sphere around it
    radius: float
    colour: Colour
    pattern: int = PLAIN
    glow: float = 0.0  # of its windows at night


def box(
    x: float,
    z: float,
    *,
    half: tuple[float, float],
    yaw: float,
    top: float,
    colour: Colour,
    pattern: int = PLAIN,
    glow: float = 0.0,
) -> Solid:
    """Walls from under the ground up to `top`; `half` is half its width and depth, yaw radians."""
    normals: list[Point] = [(0.0, -1.0, 0.0)]
    offsets = [top - 1]
    for axis, extent in zip(_axes(yaw), half, strict=True):
        for sign in (1, -1):
            normal = (sign * axis[0], 0.0, sign * axis[1])
            normals.append(normal)
            offsets.append(normal[0] * x + normal[2] * z + extent)
    radius = math.hypot(*half, top / 2)
    return Solid(normals, offsets, (x, 1 - top / 2, z), radius, colour, pattern, glow)


def pyramid(
    x: float,
    z: float,
    *,
    half: tuple[float, float],
    yaw: float,
    base: float,
    top: float,
    colour: Colour,
    pattern: int = PLAIN,
) -> Solid:
    """Four sloping faces from heights `base` to `top`, and a flat one below."""
    normals: list[Point] = [(0.0, 1.0, 0.0)]
    offsets = [1 - base]
    for axis, extent in zip(_axes(yaw), half, strict=True):
        size = math.hypot(top - base, extent)
        across, up = (top - base) / size, extent / size
        for sign in (1, -1):
            normal = (sign * axis[0] * across, -up, sign * axis[1] * across)
            normals.append(normal)
            offsets.append(normal[0] * x + normal[1] * (1 - top) + normal[2] * z)
    centre = (x, 1 - (base + top) / 2, z)
    return Solid(normals, offsets, centre, math.hypot(*half, (top - base) / 2), colour, pattern)


def gem(
    x: float, z: float, *, height: float, size: tuple[float, float], yaw: float, colour: Colour
) -> Solid:
    """Eight faces around a centre at `height`, four above and four below, half a turn apart.

    `size` is about half of its width and of its height: a crown, a rock, a hill.
    """
    normals: list[Point] = []
    offsets = []
    for part in range(8):
        upper = part % 2 == 0
        azimuth = yaw + part * math.pi / 4
        lean = 0.62 if upper else -0.55  # sine of the face's elevation, before it is stretched
        level = math.sqrt(1 - lean**2)
        raw = (
            level * math.cos(azimuth) / size[0],
            -lean / size[1],
            level * math.sin(azimuth) / size[0],
        )
        length = math.hypot(*raw)
        normal = (raw[0] / length, raw[1] / length, raw[2] / length)
        normals.append(normal)
        offsets.append(1 / length + normal[0] * x + normal[1] * (1 - height) + normal[2] * z)
    return Solid(normals, offsets, (x, 1 - height, z), 1.85 * max(size), colour)


def _axes(yaw: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of the plan, in x and z."""
    c, s = math.cos(yaw), math.sin(yaw)
    return (c, s), (-s, c)
