"""Poses to the Plücker maps that the DiT is conditioned on.

OpenCV axes: x right, y down, z forward; a pose is a camera-to-world matrix. Poses are float64
until they become a map. Shape letters: F latent frames, H and W pixels, h and w latent pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lingbot.camera.motion import Poses
from lingbot.config import SPATIAL_STRIDE


class Intrinsics(NamedTuple):
    """A pinhole camera, in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float

    def scaled(self, *, source: tuple[int, int], size: tuple[int, int]) -> "Intrinsics":
        """The same camera at another size; both are (width, height)."""
        x, y = size[0] / source[0], size[1] / source[1]
        return Intrinsics(self.fx * x, self.fy * y, self.cx * x, self.cy * y)


def default_intrinsics(width: int, height: int) -> Intrinsics:
    """The realtime service's camera, fx = fy = 500 at 832x480, at the given size."""
    at_source = Intrinsics(500.0, 500.0, 832 / 2, 480 / 2)
    return at_source.scaled(source=(832, 480), size=(width, height))


def plucker_rays(relative: Poses, intrinsics: Intrinsics, *, width: int, height: int) -> Tensor:
    """Rays by pixel: relative poses [F, 4, 4] -> [6, F, H, W] float32, origin then direction."""
    relative = relative + 0.0  # one zero, not two: equal poses are equal maps, bit for bit
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x = (columns - intrinsics.cx) / intrinsics.fx
    y = (rows - intrinsics.cy) / intrinsics.fy
    directions = np.stack([x, y, np.ones_like(x)], axis=-1)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    directions = np.einsum("fij,hwj->ifhw", relative[:, :3, :3], directions)
    origins = np.broadcast_to(relative[:, :3, 3].T[:, :, None, None], directions.shape)
    return torch.from_numpy(np.concatenate([origins, directions]).astype(np.float32))


def fold(rays: Tensor) -> Tensor:
    """Fold 8x8 pixels into channels, (c, sub_y, sub_x): [K, F, H, W] -> [K * 64, F, h, w]."""
    channels, frames, height, width = rays.shape
    stride = SPATIAL_STRIDE
    rays = rays.reshape(channels, frames, height // stride, stride, width // stride, stride)
    return rays.permute(0, 3, 5, 1, 2, 4).reshape(
        channels * stride**2, frames, height // stride, width // stride
    )


def plucker_map(relative: Poses, intrinsics: Intrinsics, *, width: int, height: int) -> Tensor:
    """What a ``cam`` model is told of its poses: [F, 4, 4] -> [384, F, h, w] float32."""
    return fold(plucker_rays(relative, intrinsics, width=width, height=height))


def control_map(
    control: str,
    relative: Poses,
    actions: Sequence[str],
    intrinsics: Intrinsics,
    *,
    width: int,
    height: int,
) -> Tensor:
    """What a model is told of its poses, [384 or 448, F, h, w] float32.

    A ``cam`` model sees origin and direction; an ``act`` model sees the direction, then a plane
    for each of w, a, s, d that is 1 while the key is held.
    """
    if control == "cam":
        return plucker_map(relative, intrinsics, width=width, height=height)
    directions = plucker_rays(relative, intrinsics, width=width, height=height)[3:]
    held = torch.tensor([[float(key in action) for action in actions] for key in "wasd"])
    planes = held[:, :, None, None].expand(-1, -1, height, width)
    return fold(torch.cat([directions, planes]))


def pose_key(
    control: str,
    pose: Poses,
    action: str,
    intrinsics: Intrinsics,
    *,
    width: int,
    height: int,
) -> bytes:
    """Everything that ``control_map`` of one latent frame depends on; ``pose`` is [4, 4].

    Equal keys are equal maps, bit for bit. Two zeros of different sign are one.
    """
    held = [float(key in action) for key in "wasd"] if control == "act" else []
    numbers = [*(pose + 0.0).flat, *intrinsics, width, height, *held]
    return control.encode() + np.array(numbers, np.float64).tobytes()
