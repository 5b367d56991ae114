"""The camera conditioner: every block's stream is scaled and shifted by the pose of each frame.

Shape letters: B batch, F latent frames of the chunk, T tokens of a latent frame, C dim, N layers.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lingbot.dit.layers import linear


class ConditionerMaps(Protocol):
    """The conditioner's output for a chunk. The caller decides which maps it keeps."""

    def scale_shift(self, layer: int) -> tuple[Tensor, Tensor]:
        """The scale and the shift of one block, [B, F, T, C] each.

        F may be 1 where all latent frames share a pose.
        """


class PrecomputedMaps(NamedTuple):
    """The maps of all blocks, computed beforehand."""

    scale: Sequence[Tensor] | Tensor  # N of [B, F, T, C]
    shift: Sequence[Tensor] | Tensor

    def scale_shift(self, layer: int) -> tuple[Tensor, Tensor]:
        return self.scale[layer], self.shift[layer]


class CameraConditioner(nn.Module):
    """Scales and shifts the stream by the camera's pose.

    Its maps depend on the pose and the weights alone, so that a cache can keep them.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer1, self.layer2 = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.scale, self.shift = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def compute_scale_shift(self, camera_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Camera tokens [..., C] -> scale and shift, [..., C] each."""
        hidden = linear(self.layer1, camera_tokens)
        hidden = linear(self.layer2, F.silu(hidden)) + camera_tokens
        return linear(self.scale, hidden), linear(self.shift, hidden)

    def forward(self, x: Tensor, maps: tuple[Tensor, Tensor]) -> Tensor:
        """x [B, F, T, C] with this block's scale and shift applied."""
        scale, shift = maps
        return torch.addcmul(x + shift, x, scale)  # 1 + scale would be rounded to scale's type
