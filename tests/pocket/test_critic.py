"""The critic learns to tell blurred from sharp, and pulls no harder than it may."""

import pytest
import torch
import torch.nn.functional as F

from pocket.training.critic import SHARE, WARM_UP, Critic


@pytest.fixture
def critic():
    torch.manual_seed(0)
    return Critic(torch.device("cpu"))


def chunks():
    sharp = torch.randn(2, 2, 16, 3, 16, 16)
    blurred = F.avg_pool2d(sharp.flatten(0, 3), 3, stride=1, padding=1).view_as(sharp)
    return sharp, blurred.requires_grad_()


def test_it_learns_to_tell_blurred_from_sharp(critic):
    gaps = []
    for _ in range(60):
        sharp, blurred = chunks()
        gaps.append(critic.backward(blurred, sharp, (blurred - sharp).square().mean()))
    assert abs(gaps[0]) < 0.1
    assert min(gaps[-5:]) > 0.5


@pytest.mark.parametrize("step, share", [(0, 0.0), (WARM_UP / 2, SHARE / 2), (WARM_UP, SHARE)])
def test_its_pull_is_a_share_of_the_losss(critic, step, share):
    critic.step = step
    sharp, blurred = chunks()
    loss = (blurred - sharp).square().mean()
    (pull,) = torch.autograd.grad(loss, blurred, retain_graph=True)
    critic.backward(blurred, sharp, loss)
    extra = (blurred.grad - pull).norm().item()
    assert extra == pytest.approx(share * pull.norm().item(), abs=1e-7)


def test_it_goes_on_where_it_was(critic):
    other = Critic(torch.device("cpu"))
    sharp, blurred = chunks()
    critic.backward(blurred, sharp, (blurred - sharp).abs().mean())
    other.load(critic.state())
    again = [
        one.backward(blurred, sharp, (blurred - sharp).abs().mean()) for one in (critic, other)
    ]
    assert other.step == 2 and again[0] == again[1]
