"""The renderer of the pocket world: exact pinhole rays against ground, convex solids and a sky.

Shape letters: F frames, H W pixels, P selected pixels of all frames.
"""

from dataclasses import dataclass
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from lingbot.camera.motion import Poses
from lingbot.camera.rays import default_intrinsics
from pocket.renderer.conditions import light_of
from pocket.renderer.ground import EXTENT, SIDE, paint_ground
from pocket.renderer.packed_solids import FAR, NEAR, PackedSolids
from pocket.renderer.scene import Scene
from pocket.renderer.sky import Sky
from pocket.renderer.solids import BANDS, WINDOWS

FRAMES_AT_ONCE = 4  # few enough to stay in the processor's cache
# Offsets of the samples that are averaged into a pixel. No two share a row or a column. With two
# samples the variance of the Laplacian is 1.5 times that of 32 samples, and the DiT cannot predict
# the aliasing.
SAMPLES = ((-0.375, 0.125), (0.125, 0.375), (0.375, -0.125), (-0.125, -0.375))
GLASS_BY_DAY, GLASS_AT_NIGHT = (0.22, 0.27, 0.34), (1.0, 0.78, 0.40)


class FrameSize(TypedDict):
    """Size of frames in pixels."""

    width: int
    height: int


class Renderer:
    """Renders a scene. The ground is painted and the solids are packed once, in the constructor."""

    def __init__(self, scene: Scene, *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.scene = scene
        self.light = light_of(scene.conditions)
        self.ground = paint_ground(scene, self.light, device=self.device)
        self.sky = Sky.of(scene, self.light, self.device)
        self.solids = PackedSolids.of(scene, self.device)

    def render(self, poses: Poses, *, width: int, height: int) -> Tensor:
        """Render frames, uint8 [F, height, width, 3].

        `poses` [F, 4, 4] are camera-to-world in OpenCV axes.
        """
        rays = [camera_rays(width, height, offset).to(self.device) for offset in SAMPLES]
        parts = []
        for part in self._cameras(poses).split(FRAMES_AT_ONCE):
            first, *others = (self._trace(part, sample) for sample in rays)
            colour = self._colours(first, torch.ones_like(first.on_solid))
            edge = first.on_solid  # one sample is enough for sky and ground
            for other in others:
                edge = edge | other.on_solid | (first.on_ground != other.on_ground)
            colour[edge] += sum(self._colours(other, edge)[edge] for other in others)
            colour[edge] /= len(SAMPLES)
            parts.append((colour.clamp(0, 1) * 255 + 0.5).to(torch.uint8))
        return torch.cat(parts)

    def depth(self, poses: Poses, *, width: int, height: int) -> Tensor:
        """Return depths along the camera's axis at pixel centres, [F, height, width].

        The sky has depth `FAR`. `poses` as in `render`.
        """
        rays = camera_rays(width, height, (0.0, 0.0)).to(self.device)
        parts = self._cameras(poses).split(FRAMES_AT_ONCE)
        return torch.cat([self._trace(part, rays).depth for part in parts])

    def _cameras(self, poses: Poses) -> Tensor:
        return torch.from_numpy(poses).float().to(self.device)

    def _trace(self, poses: Tensor, rays: Tensor) -> "_Trace":
        direction = torch.einsum("fij,hwj->ifhw", poses[:, :3, :3], rays)
        origin = poses[:, :3, 3]
        down = direction[1].clamp(min=1e-5)
        ground = (1 - origin[:, 1, None, None]) / down
        ground = torch.where((direction[1] > 1e-5) & (ground > NEAR), ground, FAR)
        solid, hit = self.solids.nearest(poses, direction, rays)
        depth = torch.minimum(ground, solid)
        on_solid = solid < ground
        on_ground = ~on_solid & (depth < FAR / 10)
        length = rays.norm(dim=-1).expand_as(depth)
        return _Trace(
            origin=origin,
            direction=direction,
            length=length,
            depth=depth,
            hit=hit,
            on_solid=on_solid,
            on_ground=on_ground,
        )

    def _colours(self, trace: "_Trace", wanted: Tensor) -> Tensor:
        """Return the colours [F, H, W, 3] where `wanted` [F, H, W] is true, zeros elsewhere."""
        colour = torch.zeros(*wanted.shape, 3, device=self.device)
        sky = wanted & ~trace.on_solid & ~trace.on_ground
        colour[sky] = self.sky.colours(_unit(trace.direction[:, sky]))
        for kind, paint in (
            (trace.on_ground, self._ground_colours),
            (trace.on_solid, self._solid_colours),
        ):
            where = (kind & wanted).nonzero(as_tuple=True)
            frame, row, column = where
            ray, depth = trace.direction[:, frame, row, column], trace.depth[where]
            point = trace.origin.T[:, frame] + ray * depth
            reach = depth * trace.length[where]
            surface = paint(point, ray, reach, trace.hit[where])
            clear = torch.exp(-reach / self.light.fog)[:, None]
            colour[where] = torch.lerp(self.sky.horizon.expand_as(surface), surface, clear)
        return colour

    def _ground_colours(self, point: Tensor, ray: Tensor, reach: Tensor, hit: Tensor) -> Tensor:
        """Return the colours [P, 3] of ground points [3, P]."""
        ray = _unit(ray)
        footprint = reach * (1.5 / 125) / ray[1].clamp(min=0.05).sqrt()
        level = torch.log2(footprint * SIDE / (2 * EXTENT)).clamp(0, len(self.ground) - 1.001)
        place = (point[[0, 2]] / EXTENT).T
        texels = torch.empty(len(place), 4, device=self.device)
        whole = level.floor().long()
        for i in range(len(self.ground) - 1):
            chosen = (whole == i).nonzero(as_tuple=True)[0]
            if len(chosen):
                fine, coarse = (_sample(self.ground[j], place[chosen]) for j in (i, i + 1))
                texels[chosen] = torch.lerp(fine, coarse, (level[chosen] - i)[:, None])
        colours, water = texels[:, :3], texels[:, 3]
        wet = (water > 0.02).nonzero(as_tuple=True)[0]
        if len(wet):
            x, _, z = point[:, wet]
            ripple = 0.06 * torch.exp(-reach[wet] / 8)
            mirrored = ray[:, wet] * torch.tensor([1.0, -1.0, 1.0], device=self.device)[:, None]
            mirrored[0] += ripple * torch.sin(5 * z + 2 * torch.sin(1.7 * x))
            mirrored[2] += ripple * torch.sin(4 * x + 2 * torch.sin(2.3 * z))
            seen = self.sky.colours(_unit(mirrored))
            tint = torch.tensor([0.75, 0.85, 0.95], device=self.device)
            colours[wet] = torch.lerp(colours[wet], 0.9 * seen * tint, water[wet, None])
        return colours

    def _solid_colours(self, point: Tensor, ray: Tensor, reach: Tensor, hit: Tensor) -> Tensor:
        """Return the colours [P, 3] of points [3, P] on the faces `hit` [P]."""
        solids, light = self.solids, self.light
        which = torch.div(hit, solids.max_faces, rounding_mode="floor")
        normal = solids.normals.flatten(0, 1)[hit]  # [P, 3]
        colours, pattern = solids.colours[which], solids.patterns[which]
        height = 1 - point[1]
        bands = torch.sign(torch.sin(11 * height)) * (pattern == BANDS)
        colours = colours * (1 + 0.16 * bands * torch.exp(-reach / 9))[:, None]
        along = point[0] * normal[:, 2] - point[2] * normal[:, 0]
        column, row = (along / 0.62) % 1, (height / 0.85) % 1
        pane = (column > 0.28) & (column < 0.72) & (row > 0.38) & (row < 0.80)
        pane &= (pattern == WINDOWS) & (normal[:, 1].abs() < 0.5)
        share = torch.where(pane, 0.25 + 0.75 * torch.exp(-reach / 14), 0.0)[:, None]
        sunlight = (normal @ self.sky.sun_direction).clamp(min=0)[:, None]
        shade = 0.72 - 0.28 * normal[:, 1:2]
        ambient, direct = (
            torch.tensor(part, device=self.device) for part in (light.ambient, light.direct)
        )
        lit = shade * ambient + sunlight * direct
        glass = torch.tensor(GLASS_BY_DAY, device=self.device) * (ambient + 0.4)
        lamp = torch.tensor(GLASS_AT_NIGHT, device=self.device)
        dark = 1.0 if self.scene.conditions.time == "night" else 0.0
        windows = torch.lerp(glass, lamp, (dark * solids.glows[which])[:, None])
        return torch.lerp(colours * lit, windows, share)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trace:
    """The first hit of each ray."""

    origin: Tensor  # [F, 3]
    direction: Tensor  # [3, F, H, W], of length 1 along the camera's axis
    length: Tensor  # [F, H, W], lengths of the directions
    depth: Tensor  # [F, H, W], along the camera's axis; FAR for sky
    hit: Tensor  # [F, H, W], number of the solid's face
    on_solid: Tensor  # bool [F, H, W]
    on_ground: Tensor  # bool [F, H, W]


def camera_rays(width: int, height: int, offset: tuple[float, float]) -> Tensor:
    """Return rays in camera axes, [height, width, 3], of length 1 along the camera's axis.

    The rays pass through the pixel centres, shifted by `offset` (x, y) in pixels.
    """
    fx, fy, cx, cy = default_intrinsics(width, height)
    x = (torch.arange(width, dtype=torch.float64) + 0.5 + offset[0] - cx) / fx
    y = (torch.arange(height, dtype=torch.float64) + 0.5 + offset[1] - cy) / fy
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows, torch.ones_like(rows)], dim=-1).float()


def _unit(direction: Tensor) -> Tensor:
    """Normalise directions [3, P]. `F.normalize` is ten times slower along this axis."""
    return direction * direction.square().sum(0).rsqrt()


def _sample(texture: Tensor, place: Tensor) -> Tensor:
    """Sample a texture [1, 4, S, S] bilinearly at places [P, 2] in -1..1: [P, 4]."""
    grid = place[None, None]
    sampled = F.grid_sample(texture, grid, padding_mode="border", align_corners=False)
    return sampled[0, :, 0].T
