"""The pocket world's renderer: exact pinhole rays against a plane, a sky and boxes.

Shape letters: F frames, P pixels of a frame, N boxes.
"""

import torch
from torch import Tensor

from lingbot.camera import Poses, default_intrinsics
from lingbot.pocket.scene import Scene

GROUND_FOG = 11.0  # distances at which e^-1 of a colour is left
BLOCK_FOG = 10.0
BLUR = 6.0  # the ground's pattern fades into its mean, as a real pixel's would
FAR = 1e6
FRAMES_AT_ONCE = 8  # small enough to stay in the processor's cache
HALF_VIEW = 0.9  # radians from the middle of the picture to its corners, and some more
FACE_LIGHT = (0.72, 1.0, 0.88)  # of faces that look along x, y, z


def render(scene: Scene, poses: Poses, *, width: int, height: int) -> Tensor:
    """Camera-to-world poses [F, 4, 4], OpenCV axes -> frames uint8 [F, height, width, 3]."""
    rays = pixel_rays(width, height)
    cameras = torch.from_numpy(poses).float().split(FRAMES_AT_ONCE)
    parts = [_render(scene, rays, part) for part in cameras]
    return torch.cat(parts).reshape(-1, height, width, 3)


def pixel_rays(width: int, height: int) -> Tensor:
    """Unit directions through the pixels' centres in the camera's axes, [P, 3]."""
    fx, fy, cx, cy = default_intrinsics(width, height)
    x = (torch.arange(width, dtype=torch.float64) + 0.5 - cx) / fx
    y = (torch.arange(height, dtype=torch.float64) + 0.5 - cy) / fy
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    rays = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1).reshape(-1, 3)
    unit: Tensor = rays / rays.norm(dim=-1, keepdim=True)
    return unit.float()


def _render(scene: Scene, rays: Tensor, poses: Tensor) -> Tensor:
    """[F, 4, 4] -> uint8 [F, P, 3]."""
    direction = torch.einsum("fij,pj->ifp", poses[:, :3, :3], rays)  # [3, F, P]
    origin = poses[:, :3, 3].T[:, :, None]  # [3, F, 1]
    inverse = 1 / torch.where(direction.abs() < 1e-6, 1e-6, direction)
    sky = _sky(scene, direction)
    ground_distance = (1 - origin[1]) * inverse[1]
    ground_distance = torch.where(ground_distance > 1e-3, ground_distance, FAR)
    picture = _ground(scene, origin, direction, ground_distance, sky)
    block_distance, face, block = _nearest_block(scene, poses, origin, inverse)
    visible = block_distance < ground_distance
    blocks = _block_colours(scene, origin[1] + direction[1] * block_distance, face, block)
    faded = torch.lerp(sky, blocks, torch.exp(-block_distance / BLOCK_FOG)[..., None])
    picture = torch.where(visible[..., None], faded, picture)
    return (picture.clamp(0, 1) * 255 + 0.5).to(torch.uint8)


def _sky(scene: Scene, direction: Tensor) -> Tensor:
    up = (-direction[1]).clamp(0, 1)[..., None]
    towards = (direction * scene.sun_direction[:, None, None]).sum(0).clamp(0, 1)
    glow = (0.35 * towards**8 + 0.9 * towards**160).clamp(max=1)[..., None]
    sky = torch.lerp(scene.horizon.expand(*up.shape[:2], 3), scene.zenith, (1.6 * up).clamp(max=1))
    return torch.lerp(sky, scene.sun, glow)


def _ground(
    scene: Scene, origin: Tensor, direction: Tensor, distance: Tensor, sky: Tensor
) -> Tensor:
    near = distance.clamp(max=100)
    x, z = origin[0] + direction[0] * near, origin[2] + direction[2] * near
    if scene.ground == "checkered":
        pattern = (x.floor() + z.floor()) % 2
    elif scene.ground == "striped":
        pattern = z.floor() % 2
    else:
        pattern = (torch.maximum((x % 1 - 0.5).abs(), (z % 1 - 0.5).abs()) > 0.38).float()
    mean = 0.42 if scene.ground == "tiled" else 0.5
    pattern = mean + (pattern - mean) * torch.exp(-near / BLUR)
    first, second = scene.ground_colours
    ground = torch.lerp(first.expand(*pattern.shape, 3), second, pattern[..., None])
    return torch.lerp(sky, ground, torch.exp(-distance / GROUND_FOG)[..., None])


def _nearest_block(
    scene: Scene, poses: Tensor, origin: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The distance to the nearest block's surface, the axis of the face hit, the block: [F, P]."""
    nearest = torch.full_like(inverse[0], FAR)
    face = torch.zeros_like(nearest, dtype=torch.long)
    block = torch.zeros_like(face)
    for i in _in_sight(scene, poses):
        one = (scene.low[i, :, None, None] - origin) * inverse
        other = (scene.high[i, :, None, None] - origin) * inverse
        enter, axis = torch.minimum(one, other).max(0)
        leave = torch.maximum(one, other).amin(0)
        hit = (enter < leave) & (enter > 1e-3) & (enter < nearest)
        nearest = torch.where(hit, enter, nearest)
        face = torch.where(hit, axis, face)
        block = torch.where(hit, i, block)
    return nearest, face, block


def _in_sight(scene: Scene, poses: Tensor) -> list[int]:
    """Blocks whose bounding sphere any of the cameras could see through the fog."""
    centres = (scene.low + scene.high) / 2
    radius = (scene.high - scene.low).norm(dim=-1)[:, None] / 2  # [N, 1]
    away = centres[:, None] - poses[:, :3, 3]  # [N, F, 3]
    distance = away.norm(dim=-1)
    ahead = (away * poses[:, :3, 2]).sum(-1) / distance.clamp(min=1e-6)
    angle = torch.acos(ahead.clamp(-1, 1)) - torch.asin((radius / distance).clamp(max=1))
    seen = ((angle < HALF_VIEW) | (distance < radius)) & (distance - radius < 3 * BLOCK_FOG)
    return torch.nonzero(seen.any(1)).flatten().tolist()


def _block_colours(scene: Scene, y: Tensor, face: Tensor, block: Tensor) -> Tensor:
    """The faces' own light, and bands across them that show their size."""
    shade = torch.tensor(FACE_LIGHT)[face]
    bands = 0.88 + 0.12 * torch.sign(torch.sin(7 * y))
    return scene.colours[block] * (shade * bands)[..., None]
