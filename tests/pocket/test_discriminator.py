"""The discriminator learns to recognise blur, and its gradient is bounded."""

import pytest
import torch
import torch.nn.functional as F

from pocket.training.discriminator import GRADIENT_RATIO, WARM_UP_STEPS, Discriminator


@pytest.fixture
def discriminator():
    torch.manual_seed(0)
    return Discriminator(torch.device("cpu"))


def chunks():
    sharp = torch.randn(2, 2, 16, 3, 8, 8)
    blurred = F.avg_pool2d(sharp.flatten(0, 3), 3, stride=1, padding=1).view_as(sharp)
    return sharp, blurred.requires_grad_()


def test_it_learns_to_distinguish_blurred_from_sharp(discriminator):
    gaps = []
    for _ in range(60):
        sharp, blurred = chunks()
        gaps.append(discriminator.backward(blurred, sharp, (blurred - sharp).square().mean()))
    assert abs(gaps[0]) < 0.1
    assert min(gaps[-5:]) > 0.5


@pytest.mark.parametrize(
    "step, ratio",
    [(0, 0.0), (WARM_UP_STEPS / 2, GRADIENT_RATIO / 2), (WARM_UP_STEPS, GRADIENT_RATIO)],
)
def test_its_gradient_has_a_fixed_ratio_to_that_of_the_loss(discriminator, step, ratio):
    discriminator.step = step
    sharp, blurred = chunks()
    loss = (blurred - sharp).square().mean()
    (gradient,) = torch.autograd.grad(loss, blurred, retain_graph=True)
    discriminator.backward(blurred, sharp, loss)
    extra = (blurred.grad - gradient).norm().item()
    assert extra == pytest.approx(ratio * gradient.norm().item(), abs=1e-7)


def test_it_resumes_from_its_state(discriminator):
    other = Discriminator(torch.device("cpu"))
    sharp, blurred = chunks()
    discriminator.backward(blurred, sharp, (blurred - sharp).abs().mean())
    other.load(discriminator.state())
    gaps = [
        one.backward(blurred, sharp, (blurred - sharp).abs().mean())
        for one in (discriminator, other)
    ]
    assert other.step == 2 and gaps[0] == gaps[1]
