"""The critic learns to tell blurred from sharp, and pulls no harder than it may."""

import pytest
import torch
import torch.nn.functional as F

from lingbot.pocket.training import critic as critic_module
from lingbot.pocket.training.critic import Critic


def make_critic(share=0.5):
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    return Critic(1, (8, 8), halvings=1, share=share, view=lambda pictures: pictures, device=cpu)


def pictures():
    sharp = torch.randn(8, 1, 16, 16)
    return sharp, F.avg_pool2d(sharp, 3, stride=1, padding=1).requires_grad_()


def test_it_learns_to_tell_blurred_from_sharp():
    critic, gaps = make_critic(), []
    for _ in range(300):
        sharp, blurred = pictures()
        gaps.append(critic.backward(blurred, sharp, (blurred - sharp).square().mean()))
    assert abs(gaps[0]) < 0.1
    assert min(gaps[-5:]) > 0.5


@pytest.mark.parametrize("step, share", [(0, 0.0), (critic_module.WARM_UP, 0.5)])
def test_its_pull_is_a_share_of_the_losss(step, share):
    critic = make_critic()
    critic.step = step
    sharp, blurred = pictures()
    loss = (blurred - sharp).square().mean()
    (pull,) = torch.autograd.grad(loss, blurred, retain_graph=True)
    critic.backward(blurred, sharp, loss)
    extra = (blurred.grad - pull).norm().item()
    assert extra == pytest.approx(share * pull.norm().item(), abs=1e-7)


def test_it_goes_on_where_it_was():
    critic, other = make_critic(), make_critic()
    sharp, blurred = pictures()
    critic.backward(blurred, sharp, (blurred - sharp).abs().mean())
    other.load(critic.state())
    again = [
        one.backward(blurred, sharp, (blurred - sharp).abs().mean()) for one in (critic, other)
    ]
    assert other.step == 2 and again[0] == again[1]
