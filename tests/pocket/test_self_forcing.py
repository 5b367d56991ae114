"""Self-forcing: generated pasts, and the loss of the model's own steps."""

from dataclasses import replace
from random import Random

import pytest
import torch

from tests.pocket.conftest import require_cv2

require_cv2()

from pocket.training.batch import draw_batch
from pocket.training.discriminator import Discriminator
from pocket.training.flow_matching import LEVELS
from pocket.training.self_forcing import (
    WEIGHTS,
    LossWeights,
    SelfForcing,
    degrade,
    rollout_past,
    with_degraded_past,
)

pytestmark = pytest.mark.xdist_group("pocket_run")


@pytest.fixture
def batch(dataset, table):
    torch.manual_seed(0)
    return draw_batch(dataset, table, 1, Random(3))


@pytest.fixture
def backward_step(codec):
    """One step with a new discriminator; the player's own flow generates the past, too."""

    def backward_step(predict, batch, random, weights=WEIGHTS):
        discriminator = Discriminator(torch.device("cpu"))
        state = SelfForcing(discriminator=discriminator, codec=codec, weights=weights)
        return state.backward_step(predict, predict, batch, random)

    return backward_step


def split(batch, x, sigma):
    """The noisy chunks of a sequence, and their levels in the same shape."""
    return x[:, batch.num_clean :], sigma[..., None, None, None, None]


def test_with_perfect_steps_the_past_is_the_truth_and_there_is_no_loss(batch, backward_step):
    levels = set()

    def perfect(batch, x, sigma):
        levels.update(round(float(level), 3) for level in sigma.flatten())
        noisy, level = split(batch, x, sigma)
        return torch.where(level > 0, (noisy - batch.truth) / level.clamp(min=1e-6), 0.0)

    for seed in range(8):
        past = rollout_past(perfect, batch, Random(seed))
        torch.testing.assert_close(past.x0, batch.x0, rtol=0, atol=1e-4)
    assert levels == {round(level, 3) for level in LEVELS}
    levels.clear()
    error = torch.zeros((), requires_grad=True)
    for seed in range(8):
        loss = backward_step(lambda *inputs: perfect(*inputs) + error, batch, Random(seed))
        assert loss < 1e-6
    assert levels == {round(level, 3) for level in LEVELS}
    assert error.grad is not None


def test_a_clip_counts_by_its_own_contrast(dataset, batch, backward_step):
    dim = replace(dataset, latents=torch.cat([dataset.latents[:1], 0.5 * dataset.latents[:1]]))
    assert dim.contrast[0] == pytest.approx(2 * dim.contrast[1].item())
    dimmer = replace(batch, x0=0.5 * batch.x0, contrast=0.5 * batch.contrast)
    zero = torch.zeros((), requires_grad=True)

    def nearly(batch, x, sigma):
        noisy, level = split(batch, x, sigma)
        return (noisy - 1.1 * batch.truth) / level + zero

    losses = [backward_step(nearly, each, Random(0)) for each in (batch, dimmer)]
    assert losses[0] > 0
    torch.testing.assert_close(losses[0], losses[1])


def test_content_as_rough_as_the_truth_is_better_than_smooth_content(batch, backward_step):
    batch = replace(batch, x0=torch.randn_like(batch.x0), contrast=torch.ones(1))
    amount = torch.tensor(0.5, requires_grad=True)

    def other_content(batch, x, sigma):
        noisy, level = split(batch, x, sigma)
        return (noisy - amount * torch.randn_like(batch.truth)) / level

    backward_step(other_content, batch, Random(0))
    assert amount.grad < 0  # a squared error alone would draw the amount to 0


def test_content_that_moves_as_far_as_the_truth_is_better_than_lagging_content(
    batch, backward_step
):
    shape = batch.x0.shape
    place = torch.randn(shape[0], shape[1], shape[2], 1, *shape[4:])
    x0 = place + 0.3 * torch.randn(shape)
    batch = replace(batch, x0=x0, contrast=torch.ones(1))
    amount = torch.tensor(0.5, requires_grad=True)

    def moving_otherwise(batch, x, sigma):
        noisy, level = split(batch, x, sigma)
        still = place[:, batch.num_clean :].expand_as(batch.truth)
        return (noisy - still - amount * 0.3 * torch.randn_like(batch.truth)) / level

    backward_step(moving_otherwise, batch, Random(0), LossWeights(local_contrast=0.0))
    assert amount.grad < 0


def test_the_warping_error_pulls_lagging_content_along(batch, backward_step):
    gradients = []
    for weights in (LossWeights(warping=0.0), WEIGHTS):
        amount = torch.tensor(0.5, requires_grad=True)

        def lagging(batch, x, sigma, amount=amount):
            noisy, level = split(batch, x, sigma)
            still = batch.truth[:, :, :, :1].expand_as(batch.truth)
            return (noisy - torch.lerp(still, batch.truth, amount)) / level

        torch.manual_seed(0)
        backward_step(lagging, batch, Random(0), weights)
        gradients.append(amount.grad.item())
    assert gradients[1] < gradients[0] - 1e-3


def test_a_generated_past_is_not_the_truth(batch):
    past = rollout_past(lambda batch, _x, _sigma: 0 * batch.truth, batch, Random(0))
    assert torch.equal(past.truth, batch.truth)
    generated = [number in batch.kv_cache.noisy for number in batch.kv_cache.clean]
    changed = (past.x0 != batch.x0)[0, : batch.num_clean].flatten(1).any(1).tolist()
    assert changed == generated


def test_a_degraded_past_keeps_its_sink_and_the_truth(dataset, table):
    batch = draw_batch(dataset, table, 8, Random(3))
    sink, recent = batch.kv_cache.clean.index(0), batch.kv_cache.clean.index(1)
    degraded = with_degraded_past(batch, Random(0))
    assert torch.equal(degraded.truth, batch.truth)
    assert torch.equal(degraded.x0[:, sink], batch.x0[:, sink])
    changed = (degraded.x0[:, recent] != batch.x0[:, recent]).flatten(1).any(1)
    assert 0 < changed.sum() < len(changed)
    kept = degraded.x0[:, recent].std((-2, -1)) <= batch.x0[:, recent].std((-2, -1)) + 1e-6
    assert kept.all()


def test_degrading_keeps_the_mean_of_each_channel():
    latents = torch.randn(2, 16, 3, 8, 14)
    assert torch.equal(degrade(latents, 0, 1.0), latents)
    pale = degrade(latents, 0, 0.25)
    torch.testing.assert_close(pale.mean((-2, -1)), latents.mean((-2, -1)))
    torch.testing.assert_close(pale.std((-2, -1)), 0.25 * latents.std((-2, -1)))
    steps = [degrade(latents, blurs, 1.0).diff(dim=-1).abs().mean() for blurs in range(4)]
    assert steps == sorted(steps, reverse=True)
