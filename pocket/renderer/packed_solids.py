"""All solids of a scene as tensors, and the rays that hit them.

Shape letters: F frames, H W pixels, N solids, K faces.

Tested in `tests/pocket/test_render.py`.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from pocket.renderer.scene import Scene

FAR = 1e6  # depth of the sky
NEAR = 1e-3  # least depth of a hit


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSolids:
    """The solids of a scene, padded to the same number of faces."""

    normals: Tensor  # [N, K, 3]; the rows after a solid's last face are not used
    offsets: Tensor  # [N, K]
    num_faces: tuple[int, ...]  # of each solid
    centres: Tensor  # [N, 3]
    radii: Tensor  # [N]
    colours: Tensor  # [N, 3]
    patterns: Tensor  # [N]
    glows: Tensor  # [N]

    @property
    def max_faces(self) -> int:
        """K."""
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
            normals=normals.to(device),
            offsets=offsets.to(device),
            num_faces=tuple(len(solid.offsets) for solid in solids),
            centres=torch.tensor([solid.centre for solid in solids], device=device).reshape(-1, 3),
            radii=torch.tensor([solid.radius for solid in solids], device=device),
            colours=torch.tensor([solid.colour for solid in solids], device=device).reshape(-1, 3),
            patterns=torch.tensor([solid.pattern for solid in solids], device=device),
            glows=torch.tensor([solid.glow for solid in solids], device=device),
        )

    def nearest(self, poses: Tensor, direction: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
        """Return the depth of the nearest face and its number, solid * K + face: [F, H, W] each.

        `poses` are [F, 4, 4], `direction` [3, F, H, W] in world axes, `rays` [H, W, 3] in camera
        axes. The depth is `FAR` where a ray hits no solid.
        """
        depth = torch.full_like(direction[0], FAR)
        hit = torch.zeros_like(depth, dtype=torch.long)
        for i, rows, columns in self._in_view(poses, rays):
            count = self.num_faces[i]
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
                ahead, face + i * self.max_faces, hit[:, rows, columns]
            )
        return depth, hit

    def _in_view(self, poses: Tensor, rays: Tensor) -> list[tuple[int, slice, slice]]:
        """List the solids in view of any camera, with the rows and columns of their bounds."""
        if not self.num_faces:
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
