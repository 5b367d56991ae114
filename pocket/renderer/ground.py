"""The ground of a scene as one texture: cover, streets, path, water and shadows.

Shape letters: S side of the texture in texels.

Tested in `tests/pocket/test_render.py`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pocket.renderer.conditions import Light
from pocket.renderer.layout import PAVEMENT, STREET
from pocket.renderer.scene import Scene
from pocket.renderer.solids import Solid

EXTENT = 32.0  # scene units from the middle to the edge of the texture
SIDE = 768  # texels
NUM_LEVELS = 6  # mipmap levels

ALBEDO = {
    "grass": ((0.30, 0.50, 0.17), (0.42, 0.58, 0.22)),
    "sand": ((0.80, 0.63, 0.38), (0.91, 0.77, 0.52)),
    "snow": ((0.84, 0.88, 0.95), (0.97, 0.98, 1.0)),
    "rock": ((0.50, 0.27, 0.19), (0.66, 0.38, 0.27)),
}
ASPHALT, LINE, SLAB, DIRT = (
    (0.30, 0.31, 0.33),
    (0.85, 0.84, 0.78),
    (0.62, 0.60, 0.57),
    (0.55, 0.43, 0.30),
)


def paint_ground(scene: Scene, light: Light, *, device: torch.device) -> list[Tensor]:
    """Paint the mipmap levels of the ground, [1, 4, S, S] each; S halves from level to level.

    The channels are red, green and blue under `light`, and the share of water. Rows run along z.
    """
    at = (torch.arange(SIDE, device=device) + 0.5) / SIDE * 2 * EXTENT - EXTENT
    z, x = torch.meshgrid(at, at, indexing="ij")
    generator = torch.Generator().manual_seed(scene.seed)
    colour = _cover(scene.conditions.ground, generator, device)
    grain = _noise(256, generator, device) + 0.5 * _noise(384, generator, device)
    colour = colour * (1 + 0.10 * grain)
    if scene.path is not None:
        heading, offset = scene.path
        away = (x * math.cos(heading) - z * math.sin(heading) - offset).abs()
        colour = _over(colour, DIRT, _inside(0.7 - away))
    for line, _ in _streets(scene, x, z):
        colour = _over(colour, SLAB, _inside(STREET + PAVEMENT - line.abs()))
    for line, along in _streets(scene, x, z):
        colour = _over(colour, ASPHALT, _inside(STREET - line.abs()))
        dashes = _inside(0.07 - line.abs()) * _inside(((along + 100) % 2.0) - 1.0)
        colour = _over(colour, LINE, dashes)
    water = torch.zeros_like(x)
    for lake in scene.lakes:
        wobble = 0.35 * torch.sin(3 * torch.atan2(x - lake.x, z - lake.z) + lake.x)
        depth = lake.radius - wobble - torch.hypot(x - lake.x, z - lake.z)
        colour = _over(colour, DIRT, _inside(depth + 0.35) * 0.6)
        water = torch.maximum(water, _inside(depth))
    lit = _light_on_ground(scene, light, x, z)
    levels = [torch.cat([colour * lit, water[None]])[None]]
    for _ in range(NUM_LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def _cover(ground: str, generator: torch.Generator, device: torch.device) -> Tensor:
    """Paint patches of the cover's two shades, [3, S, S]."""
    first, second = (torch.tensor(c, device=device)[:, None, None] for c in ALBEDO[ground])
    share = 0.5 + 0.45 * _noise(24, generator, device) + 0.35 * _noise(80, generator, device)
    return torch.lerp(first.expand(3, SIDE, SIDE), second, share.clamp(0, 1))


def _streets(scene: Scene, x: Tensor, z: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the distance from the middle of each street, and the place along it: [S, S] each."""
    along_z, along_x = scene.streets
    return [(x - at, z) for at in along_z] + [(z - at, x) for at in along_x]


def _light_on_ground(scene: Scene, light: Light, x: Tensor, z: Tensor) -> Tensor:
    """Return ambient light plus sunlight outside the shadows, [3, S, S]."""
    shadow = torch.zeros_like(x)
    across = math.sqrt(1 - light.elevation**2) / light.elevation
    reach = min(across, 4.0)
    toward = (math.sin(scene.sun_azimuth), math.cos(scene.sun_azimuth))
    if light.direct[0] > 0.05:
        for solid in scene.solids:
            _cast(solid, shadow, x, z, toward, reach)
    direct = torch.tensor(light.direct, device=x.device)[:, None, None]
    ambient = torch.tensor(light.ambient, device=x.device)[:, None, None]
    return ambient + direct * light.elevation * (1 - 0.9 * shadow)


def _cast(
    solid: Solid, shadow: Tensor, x: Tensor, z: Tensor, toward: tuple[float, float], reach: float
) -> None:
    """Set `shadow` to 1 for texels from which a ray to the sun hits the solid.

    Shadows have hard edges, at the resolution of the texels.
    """
    texel = 2 * EXTENT / SIDE
    tall = 1 - solid.centre[1] + solid.radius
    corners = [
        (
            solid.centre[0] + sx * solid.radius - far * toward[0],
            solid.centre[2] + sz * solid.radius - far * toward[1],
        )
        for sx in (-1, 1)
        for sz in (-1, 1)
        for far in (0.0, tall * reach)
    ]
    columns, rows = (
        slice(
            max(0, int((min(c[i] for c in corners) + EXTENT) / texel)),
            max(0, min(SIDE, int((max(c[i] for c in corners) + EXTENT) / texel) + 1)),
        )
        for i in (0, 1)
    )
    px, pz = x[rows, columns], z[rows, columns]
    if not px.numel():
        return
    enter, leave = torch.zeros_like(px), torch.full_like(px, 1e6)
    for normal, offset in zip(solid.normals, solid.offsets, strict=True):
        # The ray starts at (px, 1, pz) and runs along (toward x, -1 / reach, toward z).
        slope = normal[0] * toward[0] - normal[1] / reach + normal[2] * toward[1]
        distance = (offset - normal[1]) - normal[0] * px - normal[2] * pz
        if abs(slope) < 1e-6:
            leave = torch.where(distance < 0, -1.0, leave)
        elif slope > 0:
            leave = torch.minimum(leave, distance / slope)
        else:
            enter = torch.maximum(enter, distance / slope)
    shadow[rows, columns] = torch.maximum(shadow[rows, columns], (enter < leave).float())


def _noise(cells: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw smooth noise of deviation about 0.3 with `cells` cells along each axis: [S, S]."""
    raw = torch.randn(1, 1, cells, cells, generator=generator).to(device)
    return 0.35 * F.interpolate(raw, size=(SIDE, SIDE), mode="bicubic", align_corners=False)[0, 0]


def _inside(depth: Tensor) -> Tensor:
    """Map signed depths in scene units to 1 inside and 0 outside, with a slope one texel wide."""
    return (depth * SIDE / (2 * EXTENT) + 0.5).clamp(0, 1)


def _over(colour: Tensor, paint: tuple[float, float, float], share: Tensor) -> Tensor:
    """Blend `paint` over `colour` [3, S, S] by `share` [S, S]."""
    return torch.lerp(colour, torch.tensor(paint, device=colour.device)[:, None, None], share)
