"""Convex solids as intersections of half-spaces; all objects of a scene are made of them.

OpenCV axes with the eye at height 1: x right, y down, z ahead, the ground at y = 1. A point p is
inside a solid if normal . p <= offset for every face.

Tested in `tests/pocket/test_scene.py`.
"""

import math
from dataclasses import dataclass

Point = tuple[float, float, float]
Colour = tuple[float, float, float]

PLAIN, WINDOWS, BANDS = 0, 1, 2  # patterns on the faces


@dataclass(frozen=True, slots=True, kw_only=True)
class Solid:
    normals: list[Point]  # outward unit normals, one per face
    offsets: list[float]  # one per face
    centre: Point  # centre of the bounding sphere
    radius: float  # radius of the bounding sphere
    colour: Colour
    pattern: int = PLAIN
    glow: float = 0.0  # brightness of the windows at night, 0..1


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
    """Build vertical walls from below the ground up to height `top`.

    `half` is half the width and half the depth; `yaw` is in radians.
    """
    normals: list[Point] = [(0.0, -1.0, 0.0)]
    offsets = [top - 1]
    for axis, extent in zip(_axes(yaw), half, strict=True):
        for sign in (1, -1):
            normal = (sign * axis[0], 0.0, sign * axis[1])
            normals.append(normal)
            offsets.append(normal[0] * x + normal[2] * z + extent)
    return Solid(
        normals=normals,
        offsets=offsets,
        centre=(x, 1 - top / 2, z),
        radius=math.hypot(*half, top / 2),
        colour=colour,
        pattern=pattern,
        glow=glow,
    )


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
    """Build four sloping faces from height `base` to `top`, and a flat face below."""
    normals: list[Point] = [(0.0, 1.0, 0.0)]
    offsets = [1 - base]
    for axis, extent in zip(_axes(yaw), half, strict=True):
        size = math.hypot(top - base, extent)
        across, up = (top - base) / size, extent / size
        for sign in (1, -1):
            normal = (sign * axis[0] * across, -up, sign * axis[1] * across)
            normals.append(normal)
            offsets.append(normal[0] * x + normal[1] * (1 - top) + normal[2] * z)
    return Solid(
        normals=normals,
        offsets=offsets,
        centre=(x, 1 - (base + top) / 2, z),
        radius=math.hypot(*half, (top - base) / 2),
        colour=colour,
        pattern=pattern,
    )


def gem(
    x: float, z: float, *, height: float, size: tuple[float, float], yaw: float, colour: Colour
) -> Solid:
    """Build a solid of eight faces: four above and four below its centre at `height`, alternating.

    `size` is about half the width and half the height. Tree crowns, rocks and hills are gems.
    """
    normals: list[Point] = []
    offsets = []
    for part in range(8):
        upper = part % 2 == 0
        azimuth = yaw + part * math.pi / 4
        lean = 0.62 if upper else -0.55  # sine of the face's elevation before stretching
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
    return Solid(
        normals=normals,
        offsets=offsets,
        centre=(x, 1 - height, z),
        radius=1.85 * max(size),
        colour=colour,
    )


def _axes(yaw: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the two horizontal axes of a solid as (x, z)."""
    c, s = math.cos(yaw), math.sin(yaw)
    return (c, s), (-s, c)
