"""The pocket world's renderer: exact pinhole rays against ground, convex solids and a sky.

Shape letters: F frames, H W pixels, P some of the pixels of some frames, N solids, K faces, L
levels of the ground's picture.
"""

import math
from dataclasses import dataclass
from random import Random
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from lingbot.camera.motion import Poses
from lingbot.camera.rays import default_intrinsics
from pocket.renderer.conditions import Light, light_of
from pocket.renderer.ground import EXTENT, SIDE, paint_ground
from pocket.renderer.scene import HILLS, Scene
from pocket.renderer.solids import BANDS, WINDOWS

FAR = 1e6
NEAR = 1e-3
FRAMES_AT_ONCE = 4  # small enough to stay in the processor's cache
# Places in a pixel whose colours are averaged, no two in a row or column: of the variance of the
# Laplacian two made half as much again as 32 do, and the DiT cannot foretell the stairs they leave.
SAMPLES = ((-0.375, 0.125), (0.125, 0.375), (0.375, -0.125), (-0.125, -0.375))
GLASS_BY_DAY, GLASS_AT_NIGHT = (0.22, 0.27, 0.34), (1.0, 0.78, 0.40)


class Renderer:
    """A scene made ready: its ground painted, its solids as tensors."""

    def __init__(self, scene: Scene, *, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.scene = scene
        self.light = light_of(scene.conditions)
        self.ground = paint_ground(scene, self.light, device=self.device)
        self.sky = _Sky.of(scene, self.light, self.device)
        self.solids = _Solids.of(scene, self.device)

    def render(self, poses: Poses, *, width: int, height: int) -> Tensor:
        """Camera-to-world poses [F, 4, 4], OpenCV axes -> frames uint8 [F, height, width, 3]."""
        rays = [camera_rays(width, height, offset).to(self.device) for offset in SAMPLES]
        parts = []
        for part in self._cameras(poses).split(FRAMES_AT_ONCE):
            first, *others = (self._trace(part, sample) for sample in rays)
            colour = self._colours(first, torch.ones_like(first.on_solid))
            edge = first.on_solid  # sky and ground are smooth by themselves
            for other in others:
                edge = edge | other.on_solid | (first.on_ground != other.on_ground)
            colour[edge] += sum(self._colours(other, edge)[edge] for other in others)
            colour[edge] /= len(SAMPLES)
            parts.append((colour.clamp(0, 1) * 255 + 0.5).to(torch.uint8))
        return torch.cat(parts)

    def depth(self, poses: Poses, *, width: int, height: int) -> Tensor:
        """How far along the camera's axis pixels' centres see: [F, height, width], FAR for sky."""
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
        return _Trace(origin, direction, length, depth, hit, on_solid, on_ground)

    def _colours(self, trace: "_Trace", wanted: Tensor) -> Tensor:
        """[F, H, W, 3], as they are where `wanted` [F, H, W] is true."""
        picture = torch.zeros(*wanted.shape, 3, device=self.device)
        sky = wanted & ~trace.on_solid & ~trace.on_ground
        picture[sky] = self.sky.colours(_unit(trace.direction[:, sky]))
        for kind, paint in (
            (trace.on_ground, self._ground_colours),
            (trace.on_solid, self._solid_colours),
        ):
            where = (kind & wanted).nonzero(as_tuple=True)
            frame, row, column = where
            ray, depth = trace.direction[:, frame, row, column], trace.depth[where]
            point = trace.origin.T[:, frame] + ray * depth
            reach = depth * trace.length[where]
            colours = paint(point, ray, reach, trace.hit[where])
            clear = torch.exp(-reach / self.light.fog)[:, None]
            picture[where] = torch.lerp(self.sky.horizon.expand_as(colours), colours, clear)
        return picture

    def _ground_colours(self, point: Tensor, ray: Tensor, reach: Tensor, hit: Tensor) -> Tensor:
        """At points [3, P]: [P, 3]."""
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
        """At points [3, P] of faces `hit` [P]: [P, 3]."""
        solids, light = self.solids, self.light
        which = torch.div(hit, solids.num_faces, rounding_mode="floor")
        normal = solids.normals.flatten(0, 1)[hit]  # [P, 3]
        colours, pattern = solids.colours[which], solids.patterns[which]
        height = 1 - point[1]
        fade = torch.exp(-reach / 9)
        bands = torch.sign(torch.sin(11 * height)) * (pattern == BANDS)
        colours = colours * (1 + 0.16 * bands * fade)[:, None]
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


@dataclass(frozen=True, slots=True)
class _Trace:
    """Where rays end."""

    origin: Tensor  # [F, 3]
    direction: Tensor  # [3, F, H, W], of length 1 along the camera's axis
    length: Tensor  # [F, H, W], of the directions
    depth: Tensor  # [F, H, W], along the camera's axis; FAR for sky
    hit: Tensor  # [F, H, W], the number of the solid's face
    on_solid: Tensor  # [F, H, W]
    on_ground: Tensor


def camera_rays(width: int, height: int, offset: tuple[float, float]) -> Tensor:
    """Rays of length 1 along the axis, in the camera's axes, [height, width, 3].

    Through the pixels' centres, or beside them by `offset` pixels.
    """
    fx, fy, cx, cy = default_intrinsics(width, height)
    x = (torch.arange(width, dtype=torch.float64) + 0.5 + offset[0] - cx) / fx
    y = (torch.arange(height, dtype=torch.float64) + 0.5 + offset[1] - cy) / fy
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows, torch.ones_like(rows)], dim=-1).float()


def _unit(direction: Tensor) -> Tensor:
    """Directions [3, P] made one long. `F.normalize` takes ten times as long along this axis."""
    return direction * direction.square().sum(0).rsqrt()


def _sample(picture: Tensor, place: Tensor) -> Tensor:
    """Bilinear, at places [P, 2] in -1..1: [P, 4]."""
    grid = place[None, None]
    seen = F.grid_sample(picture, grid, padding_mode="border", align_corners=False)
    return seen[0, :, 0].T


@dataclass(frozen=True, slots=True)
class _Sky:
    """A gradient, the sun and its glow, mountains, and clouds on a plane far above."""

    zenith: Tensor  # [3], as the other colours
    horizon: Tensor
    sun: Tensor
    sun_direction: Tensor  # [3], unit
    mountains: Tensor
    cloud: Tensor
    ridges: Tensor  # [R, 3]: frequency, phase, height
    waves: Tensor  # [W, 3]: frequencies along x and z, phase
    cover: float
    haze: float

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
        """In unit directions [3, P]: [P, 3]."""
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


@dataclass(frozen=True, slots=True)
class _Solids:
    normals: Tensor  # [N, K, 3]; a solid with fewer faces has faces that are never hit
    offsets: Tensor  # [N, K]
    counts: tuple[int, ...]  # faces of each
    centres: Tensor  # [N, 3]
    radii: Tensor  # [N]
    colours: Tensor  # [N, 3]
    patterns: Tensor  # [N]
    glows: Tensor  # [N]

    @property
    def num_faces(self) -> int:
        return self.normals.shape[1]

    @classmethod
    def of(cls, scene: Scene, device: torch.device) -> Self:
        solids = scene.solids
        most = max((len(solid.offsets) for solid in solids), default=1)
        normals = torch.zeros(len(solids), most, 3)
        offsets = torch.zeros(len(solids), most)
        for i, solid in enumerate(solids):
            count = len(solid.offsets)
            normals[i, :count] = torch.tensor(solid.normals)
            offsets[i, :count] = torch.tensor(solid.offsets)
        return cls(
            normals.to(device),
            offsets.to(device),
            tuple(len(solid.offsets) for solid in solids),
            torch.tensor([solid.centre for solid in solids], device=device).reshape(-1, 3),
            torch.tensor([solid.radius for solid in solids], device=device),
            torch.tensor([solid.colour for solid in solids], device=device).reshape(-1, 3),
            torch.tensor([solid.pattern for solid in solids], device=device),
            torch.tensor([solid.glow for solid in solids], device=device),
        )

    def nearest(self, poses: Tensor, direction: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
        """Depth of the nearest face and its number, solid * K + face: [F, H, W] each."""
        depth = torch.full_like(direction[0], FAR)
        hit = torch.zeros_like(depth, dtype=torch.long)
        for i, rows, columns in self._in_sight(poses, rays):
            count = self.counts[i]
            normals = self.normals[i, :count]
            ray = direction[:, :, rows, columns]
            slope = torch.einsum("kc,cfhw->kfhw", normals, ray)
            room = self.offsets[i, :count, None] - normals @ poses[:, :3, 3].T  # [K, F]
            at = room[..., None, None] / slope
            enter, face = torch.where(slope < 0, at, -FAR).max(0)
            leave = torch.where(slope > 0, at, FAR).amin(0)
            nearest = depth[:, rows, columns]
            ahead = (enter < leave) & (enter > NEAR) & (enter < nearest)
            depth[:, rows, columns] = torch.where(ahead, enter, nearest)
            hit[:, rows, columns] = torch.where(
                ahead, face + i * self.num_faces, hit[:, rows, columns]
            )
        return depth, hit

    def _in_sight(self, poses: Tensor, rays: Tensor) -> list[tuple[int, slice, slice]]:
        """Solids that any of the cameras sees, and the rows and columns where it may."""
        if not self.counts:
            return []
        height, width = rays.shape[:2]
        away = torch.einsum(
            "fij,nfi->nfj", poses[:, :3, :3], self.centres[:, None] - poses[:, :3, 3]
        )
        x, y, z = away.unbind(-1)  # [N, F]
        r = self.radii[:, None]
        close = (z - r).clamp(min=0.05)
        behind = z + r < 0.05
        bounds = []
        for at, first, last, size in (
            (x, rays[0, 0, 0], rays[0, -1, 0], width),
            (y, rays[0, 0, 1], rays[-1, 0, 1], height),
        ):
            scale = (size - 1) / (last - first)
            low = torch.minimum((at - r) / close, (at - r) / (z + r).clamp(min=0.05))
            high = torch.maximum((at + r) / close, (at + r) / (z + r).clamp(min=0.05))
            low = torch.where(behind, 1e4, low).amin(1)
            high = torch.where(behind, -1e4, high).amax(1)
            bounds.append(((low - first) * scale).floor().clamp(0, size).long().tolist())
            bounds.append((((high - first) * scale).ceil() + 1).clamp(0, size).long().tolist())
        return [
            (i, slice(top, bottom), slice(left, right))
            for i, (left, right, top, bottom) in enumerate(zip(*bounds, strict=True))
            if left < right and top < bottom
        ]
