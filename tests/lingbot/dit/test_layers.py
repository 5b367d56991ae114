import pytest
import torch

from lingbot.dit.layers import apply_rope, patchify, rope_freqs, unpatchify


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
