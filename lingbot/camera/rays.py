"""Poses to the Plücker maps that condition the DiT.

OpenCV axes: x right, y down, z forward. A pose is a camera-to-world matrix, float64; maps are
float32. Shape letters: F latent frames, K channels, H and W pixels, h and w latent pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
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
        """The same camera for frames of another size; both sizes are (width, height)."""
        x, y = size[0] / source[0], size[1] / source[1]
        return Intrinsics(self.fx * x, self.fy * y, self.cx * x, self.cy * y)


def default_intrinsics(width: int, height: int) -> Intrinsics:
    """The realtime service's camera at the given size. At 832x480, fx = fy = 500."""
    at_source = Intrinsics(500.0, 500.0, 832 / 2, 480 / 2)
    return at_source.scaled(source=(832, 480), size=(width, height))


def plucker_rays(relative: Poses, intrinsics: Intrinsics, *, width: int, height: int) -> Tensor:
    """A ray per pixel, origin then direction: relative poses [F, 4, 4] -> [6, F, H, W] float32."""
    relative = relative + 0.0  # turns -0.0 into 0.0, so that equal poses give equal bits
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x = (columns - intrinsics.cx) / intrinsics.fx
    y = (rows - intrinsics.cy) / intrinsics.fy
    directions = np.stack([x, y, np.ones_like(x)], axis=-1)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    directions = np.einsum("fij,hwj->ifhw", relative[:, :3, :3], directions)
    origins = np.broadcast_to(relative[:, :3, 3].T[:, :, None, None], directions.shape)
    return torch.from_numpy(np.concatenate([origins, directions]).astype(np.float32))


def fold(rays: Tensor) -> Tensor:
    """Fold 8x8 pixels into channels: [K, F, H, W] -> [K * 64, F, h, w]."""
    pattern = "k f (h y) (w x) -> (k y x) f h w"
    return rearrange(rays, pattern, y=SPATIAL_STRIDE, x=SPATIAL_STRIDE)


def plucker_map(relative: Poses, intrinsics: Intrinsics, *, width: int, height: int) -> Tensor:
    """The control map of a `cam` model: relative poses [F, 4, 4] -> [384, F, h, w] float32."""
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
    """The control map of relative poses [F, 4, 4]: [384 or 448, F, h, w] float32.

    A `cam` model takes origin and direction. An `act` model takes the direction, then one plane
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
    """The inputs of `control_map` for one latent frame, as bytes; `pose` is [4, 4].

    Equal keys give maps with equal bits. -0.0 counts as 0.0.
    """
    held = [float(key in action) for key in "wasd"] if control == "act" else []
    numbers = [*(pose + 0.0).flat, *intrinsics, width, height, *held]
    return control.encode() + np.array(numbers, np.float64).tobytes()
