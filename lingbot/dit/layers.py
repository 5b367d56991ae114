"""Free functions and small modules that the DiT is made of.

Shape letters: B batch, F latent frames, T tokens of a latent frame, L text tokens, C dim, H heads,
D head_dim, N any number of tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lingbot.config import PATCH

ROPE_BASE = 10000.0


class RMSNorm(nn.Module):
    """Root-mean-square norm over the whole width, before the heads are split; in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps).to(x.dtype) * self.weight


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """A norm without weights, in float32."""
    return F.layer_norm(x.float(), (x.shape[-1],), eps=eps)


def modulate(x: Tensor, *, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return layer_norm(x, eps) * (1 + scale) + shift


def rope_angles(
    positions: Tensor,
    *,
    grid: tuple[int, int],
    head_dim: int,
    rope_scale: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """Angles of the 3D rotary embedding: positions [..., F] -> [..., F, T, D/2] float64.

    Of the D numbers of a head, 4 * (D // 6) turn with the place in the picture, half with the row
    and half with the column, and the rest with the latent frame. Any position is fine: there is no
    table to run out of. ``spacing`` is how far apart rows and columns are: more than 1 where a
    smaller picture shows what a larger one would.
    """
    spatial = 2 * (head_dim // 6)
    temporal = head_dim - 2 * spatial

    def angles(position: Tensor, width: int) -> Tensor:
        frequency = torch.arange(0, width, 2, dtype=torch.float64, device=position.device) / width
        return position.double()[..., None] / ROPE_BASE**frequency

    rows, columns = (
        angles(torch.arange(count, device=positions.device) * step + (step - 1) / 2, spatial)
        for count, step in zip(grid, rope_scale, strict=True)
    )
    by_frame = angles(positions, temporal)[..., None, None, :]
    shape = (*positions.shape, *grid, -1)
    parts = [part.expand(shape) for part in (by_frame, rows[:, None], columns[None])]
    return torch.cat(parts, dim=-1).flatten(-3, -2)


def rope_freqs(
    positions: Tensor,
    *,
    grid: tuple[int, int],
    head_dim: int,
    rope_scale: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """Cosines and sines of ``rotary_angles``: [..., F] -> [2, ..., F, T, 1, D/2] float32."""
    angles = rope_angles(positions, grid=grid, head_dim=head_dim, rope_scale=rope_scale)
    return torch.stack([angles.cos(), angles.sin()]).float()[..., None, :]


def apply_rope(x: Tensor, rope: Tensor) -> Tensor:
    """Turn neighbouring pairs: x [B, F, T, H, D] by turn [2, F, T, 1, D/2] or [2, B, F, ...]."""
    cos, sin = rope
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """q [B, N, H, D] looks at k, v [B, M, H, D]: [B, N, H, D]. ``mask`` [N, M] is true to look."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def patchify(x: Tensor) -> Tensor:
    """Fold 2x2 patches into tokens, (c, y, x) within one: [B, K, F, h, w] -> [B, F, T, K*4]."""
    batch, channels, frames, height, width = x.shape
    rows, columns = height // PATCH, width // PATCH
    x = x.reshape(batch, channels, frames, rows, PATCH, columns, PATCH)
    return x.permute(0, 2, 3, 5, 1, 4, 6).reshape(batch, frames, rows * columns, -1)


def unpatchify(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Undo it, with (y, x, c) within a token: [B, F, T, 4*K] -> [B, K, F, h, w]."""
    batch, frames = x.shape[:2]
    rows, columns = grid
    x = x.reshape(batch, frames, rows, columns, PATCH, PATCH, -1)
    return x.permute(0, 6, 1, 2, 4, 3, 5).reshape(batch, -1, frames, rows * PATCH, columns * PATCH)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Products run in the weights' type, whatever the stream's."""
    return F.linear(x.to(layer.weight.dtype), layer.weight, layer.bias)


def mlp(layers: nn.Sequential, x: Tensor) -> Tensor:
    for layer in layers:
        x = linear(layer, x) if isinstance(layer, nn.Linear) else layer(x)
    return x
