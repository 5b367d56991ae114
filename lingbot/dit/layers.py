"""Free functions and small modules that the DiT is built from.

Shape letters: B batch, F latent frames, T tokens of a latent frame, C dim, H heads, D head_dim,
N any number of tokens, K any number of channels, h and w latent rows and columns.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lingbot.config import PATCH

ROPE_BASE = 10000.0


class RMSNorm(nn.Module):
    """Root-mean-square norm over the full width, before the heads are split.

    It is computed and returned in float32.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps) * self.weight.float()


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """Layer norm without weights, in float32."""
    return F.layer_norm(x.float(), (x.shape[-1],), eps=eps)


def affine_layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer norm with weights, in float32."""
    shape = (x.shape[-1],)
    return F.layer_norm(x.float(), shape, norm.weight.float(), norm.bias.float(), norm.eps)


def modulate(x: Tensor, *, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return torch.addcmul(shift, layer_norm(x, eps), 1 + scale)


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + y * gate in float32, the type of x and gate."""
    return torch.addcmul(x, y.float(), gate)


def temporal_width(head_dim: int) -> int:
    """How many of a head's numbers, the first ones, are rotated by the latent frame."""
    return head_dim - 4 * (head_dim // 6)


def axis_angles(position: Tensor, width: int) -> Tensor:
    """Angles of one axis, whose `width` numbers are rotated in pairs: [...] -> [..., width / 2]."""
    exponent = torch.arange(0, width, 2, dtype=torch.float64, device=position.device) / width
    return position.double()[..., None] / ROPE_BASE**exponent


def rope_angles(
    positions: Tensor,
    *,
    grid: tuple[int, int],
    head_dim: int,
    rope_scale: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """Angles of the 3D rotary embedding: positions [..., F] -> [..., F, T, D/2] float64.

    A head's D numbers are rotated in pairs. Rows and columns rotate `2 * (D // 6)` numbers each;
    the latent frame rotates the rest. Angles are computed, not looked up, so any position is valid.
    `rope_scale` is the distance between neighbouring rows and columns. It is above 1 where a
    smaller frame shows the view of a larger one.
    """
    temporal = temporal_width(head_dim)
    spatial = (head_dim - temporal) // 2
    rows, columns = (
        axis_angles(torch.arange(count, device=positions.device) * step + (step - 1) / 2, spatial)
        for count, step in zip(grid, rope_scale, strict=True)
    )
    by_frame = axis_angles(positions, temporal)[..., None, None, :]
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
    """Cosines and sines of `rope_angles`: [..., F] -> [2, ..., F, T, 1, D/2] float32."""
    angles = rope_angles(positions, grid=grid, head_dim=head_dim, rope_scale=rope_scale)
    return torch.stack([angles.cos(), angles.sin()]).float()[..., None, :]


def apply_rope(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate neighbouring pairs of x [B, F, T, H, D]; rope is [2, F, T, 1, D/2] or [2, B, F, ...].

    The rotation runs in float32; the result has the type of x.
    """
    cos, sin = rope
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # the compiler fuses this, and has no complex kernels
        even, odd = pairs.unbind(-1)
        rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    else:  # a twelfth of the time
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin))
    return rotated.flatten(-2).to(x.dtype)


def move_back(k: Tensor, num_frames: int) -> None:
    """Turn rotated keys k [..., D] in place, as if their latent frames were `num_frames` earlier.

    Rotations add up, so the original keys are not needed. Rows and columns stay as they are.
    """
    turned = k[..., : temporal_width(k.shape[-1])]
    position = torch.full((), -num_frames, device=k.device)
    angles = axis_angles(position, turned.shape[-1])
    turned.copy_(apply_rope(turned, torch.stack([angles.cos(), angles.sin()]).float()))


def attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """q [B, N, H, D] attends to k, v [B, M, H, D]: [B, N, H, D].

    `mask` [N, M] is true where a query may attend.
    """
    q, k, v = (rearrange(t, "b n h d -> b h n d") for t in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return rearrange(y, "b h n d -> b n h d")


def patchify(x: Tensor) -> Tensor:
    """Fold 2x2 patches into tokens, channel first: [B, K, F, h, w] -> [B, F, T, K * 4]."""
    pattern = "b k f (rows y) (columns x) -> b f (rows columns) (k y x)"
    return rearrange(x, pattern, y=PATCH, x=PATCH)


def unpatchify(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Unfold tokens, channel last: [B, F, T, 4 * K] -> [B, K, F, h, w]."""
    rows, columns = grid
    pattern = "b f (rows columns) (y x k) -> b k f (rows y) (columns x)"
    return rearrange(x, pattern, rows=rows, columns=columns, y=PATCH, x=PATCH)


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer in the weights' type, for any type of x."""
    if isinstance(layer, nn.Linear):
        x = x.to(layer.weight.dtype)
    y: Tensor = layer(x)
    return y


def mlp(layers: nn.Sequential, x: Tensor) -> Tensor:
    """A stack of layers whose linear ones run in the weights' type."""
    for layer in layers:
        x = linear(layer, x)
    return x
