"""The camera conditioner: scales and shifts the stream of every block by the camera's pose.

Shape letters: B batch, F latent frames of the chunk, T tokens of a latent frame, C dim, N layers.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from lingbot.dit.layers import linear


class Camera(Protocol):
    """Where the camera goes. The caller owns it, and decides what is kept and what made anew."""

    def scale_shift(self, layer: int) -> tuple[Tensor, Tensor]:
        """What it does to a block's stream, x -> (1 + scale) * x + shift: [B, F, T, C] each.

        Where all latent frames share a pose, F may be 1.
        """


class PrecomputedMaps(NamedTuple):
    """Everything that a camera does, computed beforehand."""

    scale: Sequence[Tensor] | Tensor  # N of [B, F, T, C]
    shift: Sequence[Tensor] | Tensor

    def scale_shift(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.scale[layer], self.shift[layer]


class CameraConditioner(nn.Module):
    """Scales and shifts the stream by where the camera went.

    Its maps depend on the pose and the weights alone, so they can be computed once and kept.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer1, self.layer2 = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.scale, self.shift = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def compute_scale_shift(self, camera: Tensor) -> tuple[Tensor, Tensor]:
        """camera tokens [..., C] -> scale and shift, [..., C] each."""
        hidden = linear(self.layer2, F.silu(linear(self.layer1, camera))) + camera
        return linear(self.scale, hidden), linear(self.shift, hidden)

    def forward(
        self,
        x: Tensor,
        camera: Tensor | None = None,
        *,
        maps: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Condition x on camera tokens, or on the ``maps`` that were computed from them before."""
        if maps is None:
            assert camera is not None
            maps = self.compute_scale_shift(camera)
        scale, shift = maps
        return (1 + scale) * x + shift
