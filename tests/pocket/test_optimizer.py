"""Muon's steps of matrices and convolutions."""

import pytest
import torch
from torch import nn

from pocket.training.optimizer import Optimizers


class Weights(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.weights = nn.ParameterList(weights)
        self.bias = nn.Parameter(torch.zeros(1))


def optimize(weights):
    model = Weights(weights)
    return Optimizers(model, [model])


def test_weights_move_together_as_alone_and_in_any_memory_layout():
    torch.manual_seed(0)
    shapes = [(4, 6, 3, 3), (4, 6, 3, 3), (20, 8), (1, 6, 8)]
    together = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    together[1].data = together[1].data.to(memory_format=torch.channels_last)
    alone = [nn.Parameter(weight.detach().clone().contiguous()) for weight in together]
    before = [weight.detach().clone() for weight in alone]
    optimizers = [optimize(together), *(optimize([weight]) for weight in alone)]
    for _ in range(2):
        for one, other in zip(together, alone, strict=True):
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step(0.1)
    # Muon computes in bfloat16, and another memory layout sums in another order.
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-3)
    assert all((a - b).abs().mean() > 0.01 for a, b in zip(alone, before, strict=True))


@pytest.mark.parametrize("shape", [(8, 20), (20, 8)])
def test_a_step_is_orthogonal_and_of_adams_size(shape):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(shape))
    before = weight.detach().clone()
    weight.grad = torch.randn(shape)
    optimize([weight]).step(0.1)
    values = torch.linalg.svdvals((before - weight.detach()) / (0.1 * 0.2 * max(shape) ** 0.5))
    assert values.min() > 0.5 and values.max() < 1.5
