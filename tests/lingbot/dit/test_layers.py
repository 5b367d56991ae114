import pytest
import torch
from torch import nn

from lingbot.dit.layers import (
    affine_layer_norm,
    apply_rope,
    gated_residual,
    modulate,
    patchify,
    rope_freqs,
    unpatchify,
)

DTYPES = (torch.float32, torch.bfloat16)


def test_unpatchify_takes_channels_last():
    tokens = torch.arange(2 * 3 * 64).float().view(1, 1, 6, 64)
    latents = unpatchify(tokens, (2, 3))
    assert latents.shape == (1, 16, 1, 4, 6)
    again = patchify(latents).unflatten(-1, (16, 2, 2)).permute(0, 1, 2, 4, 5, 3).flatten(-3)
    assert torch.equal(again, tokens)


@pytest.mark.parametrize("position", [0, 5, 1023, 1024, 100_000])
def test_rope_depends_on_distance_alone_at_any_position(position):
    """A dot product of two rotated vectors stays the same when both positions increase."""
    q, k = torch.randn(2, 1, 1, 6, 4, 16, dtype=torch.float64).float()

    def score(q_at, k_at):
        ropes = [rope_freqs(torch.tensor([at]), grid=(2, 3), head_dim=16) for at in (q_at, k_at)]
        return (apply_rope(q, ropes[0]) * apply_rope(k, ropes[1])).sum(-1)

    torch.testing.assert_close(score(position + 7, position), score(7, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("positions", [(3,), (3, 250, 4), ((1, 2), (7, 9))])
def test_rope_turns_each_pair_of_numbers_by_its_angle(dtype, positions):
    """The formula in real numbers, which is also what the compiler gets."""
    positions = torch.tensor(positions)
    rope = rope_freqs(positions, grid=(2, 3), head_dim=16)
    x = torch.randn(2, positions.shape[-1], 6, 4, 16).to(dtype)
    cos, sin = (half.repeat_interleave(2, dim=-1) for half in rope)
    swapped = x.float().unflatten(-1, (-1, 2)).flip(-1) * torch.tensor([-1.0, 1.0])
    expected = (x.float() * cos + swapped.flatten(-2) * sin).to(dtype)
    compiled = torch.compile(apply_rope, backend="eager", fullgraph=True)
    for rotated in (apply_rope(x, rope), compiled(x, rope)):
        assert rotated.dtype == dtype
        torch.testing.assert_close(rotated, expected)
    # A view into the product of q, k and v, whose rows are further apart
    wide = torch.cat([x, x], dim=-2)[..., :4, :]
    assert torch.equal(apply_rope(wide, rope), apply_rope(x, rope))


def test_rope_passes_gradients():
    x = torch.randn(1, 2, 6, 4, 16, requires_grad=True)
    rope = rope_freqs(torch.tensor([4, 5]), grid=(2, 3), head_dim=16)
    rotated = apply_rope(x, rope)
    rotated.backward(rotated.detach())
    torch.testing.assert_close(x.grad, x.detach())  # the rotation back


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_and_residuals_are_computed_in_float32(dtype):
    x, y = 3 * torch.randn(1, 3, 5, 16) + 1, torch.randn(1, 3, 5, 16).to(dtype)
    shift, scale = torch.randn(2, 1, 3, 1, 16)
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    norm = nn.LayerNorm(16, eps=1e-6).to(dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    results = {
        "affine": (affine_layer_norm(norm, x), normed * norm.weight.float() + norm.bias.float()),
        "modulated": (
            modulate(x, shift=shift, scale=scale, eps=1e-6),
            normed * (1 + scale) + shift,
        ),
        "gated": (gated_residual(x, y, scale), x + y.float() * scale),
    }
    for ours, expected in results.values():
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
