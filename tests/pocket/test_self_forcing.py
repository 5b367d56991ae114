"""The last stage: pasts of one's own, and what a step of one's own is held to."""

from dataclasses import replace
from random import Random

import pytest
import torch

from pocket.training import self_forcing
from pocket.training.batch import Words, draw_batch
from pocket.training.critic import Critic
from pocket.training.dit import MODEL
from pocket.training.self_forcing import (
    LEVELS,
    OwnPasts,
    fade,
    learn_own_step,
    own_past,
    with_faded_past,
)

CPU = torch.device("cpu")


def test_with_perfect_steps_the_past_is_the_truth_and_nothing_is_lost(bank, codec, monkeypatch):
    torch.manual_seed(0)
    batch = draw_batch(bank, Words.of(bank, MODEL), 1, Random(3))
    levels = set()

    def perfect(_model, batch, x, sigma):
        levels.update(round(float(level), 3) for level in sigma.flatten())
        noisy, wide = x[:, batch.num_clean :], sigma[..., None, None, None, None]
        return torch.where(wide > 0, (noisy - batch.truth) / wide.clamp(min=1e-6), 0.0)

    monkeypatch.setattr(self_forcing, "predict_flow", perfect)
    for seed in range(8):
        past = own_past(None, batch, Random(seed))
        torch.testing.assert_close(past.x0, batch.x0, rtol=0, atol=1e-4)
    assert levels == {round(level, 3) for level in LEVELS}
    levels.clear()
    slip = torch.zeros((), requires_grad=True)
    monkeypatch.setattr(self_forcing, "predict_flow", lambda *told: perfect(*told) + slip)
    for seed in range(8):
        assert learn_own_step(None, None, batch, Critic(CPU), codec, Random(seed)) < 1e-6
    assert levels == {round(level, 3) for level in LEVELS}
    assert slip.grad is not None


def test_a_clip_counts_by_its_own_contrast(bank, codec, monkeypatch):
    dim = replace(bank, latents=torch.cat([bank.latents[:1], 0.5 * bank.latents[:1]]))
    assert dim.contrast[0] == pytest.approx(2 * dim.contrast[1].item())
    batch = draw_batch(bank, Words.of(bank, MODEL), 1, Random(3))
    dimmer = replace(batch, x0=0.5 * batch.x0, contrast=0.5 * batch.contrast)

    def nearly(_model, batch, x, sigma):
        noisy, wide = x[:, batch.num_clean :], sigma[..., None, None, None, None]
        return (noisy - 1.1 * batch.truth) / wide + slip

    slip = torch.zeros((), requires_grad=True)
    monkeypatch.setattr(self_forcing, "predict_flow", nearly)
    losses = [
        learn_own_step(None, None, told, Critic(CPU), codec, Random(0)) for told in (batch, dimmer)
    ]
    assert losses[0] > 0
    torch.testing.assert_close(losses[0], losses[1])


def test_what_is_as_rough_as_the_truth_is_better_than_what_is_smooth(bank, codec, monkeypatch):
    torch.manual_seed(0)
    batch = draw_batch(bank, Words.of(bank, MODEL), 1, Random(3))
    batch = replace(batch, x0=torch.randn_like(batch.x0), contrast=torch.ones(1))
    amount = torch.tensor(0.5, requires_grad=True)

    def something_else(_model, batch, x, sigma):
        made = amount * torch.randn_like(batch.truth)
        return (x[:, batch.num_clean :] - made) / sigma[..., None, None, None, None]

    monkeypatch.setattr(self_forcing, "predict_flow", something_else)
    learn_own_step(None, None, batch, Critic(CPU), codec, Random(0))
    assert amount.grad < 0  # an error alone would draw the amount to 0


def test_what_moves_as_far_as_the_truth_is_better_than_what_lags(bank, codec, monkeypatch):
    torch.manual_seed(0)
    batch = draw_batch(bank, Words.of(bank, MODEL), 1, Random(3))
    shape = batch.x0.shape
    place = torch.randn(shape[0], shape[1], shape[2], 1, *shape[4:])
    x0 = place + 0.3 * torch.randn(shape)
    batch = replace(batch, x0=x0, contrast=torch.ones(1))
    amount = torch.tensor(0.5, requires_grad=True)
    monkeypatch.setattr(self_forcing, "ROUGHNESS", 0.0)

    def elsewhere(_model, batch, x, sigma):
        still = place[:, batch.num_clean :].expand_as(batch.truth)
        made = still + amount * 0.3 * torch.randn_like(batch.truth)
        return (x[:, batch.num_clean :] - made) / sigma[..., None, None, None, None]

    monkeypatch.setattr(self_forcing, "predict_flow", elsewhere)
    learn_own_step(None, None, batch, Critic(CPU), codec, Random(0))
    assert amount.grad < 0


def test_what_slips_from_the_truths_motion_is_pulled_along(bank, codec, monkeypatch):
    batch = draw_batch(bank, Words.of(bank, MODEL), 1, Random(3))
    pulls = []
    for weight in (0.0, self_forcing.WARPING):
        amount = torch.tensor(0.5, requires_grad=True)

        def lags(_model, batch, x, sigma, amount=amount):
            still = batch.truth[:, :, :, :1].expand_as(batch.truth)
            made = torch.lerp(still, batch.truth, amount)
            return (x[:, batch.num_clean :] - made) / sigma[..., None, None, None, None]

        monkeypatch.setattr(self_forcing, "predict_flow", lags)
        monkeypatch.setattr(self_forcing, "WARPING", weight)
        torch.manual_seed(0)
        learn_own_step(None, None, batch, Critic(CPU), codec, Random(0))
        pulls.append(amount.grad.item())
    assert pulls[1] < pulls[0] - 1e-3


def test_a_past_is_taken_up_where_the_model_left_it(bank):
    pasts = OwnPasts()
    batch = draw_batch(bank, Words.of(bank, MODEL), 8, Random(3))
    assert torch.equal(pasts.recall(batch, Random(0)).x0, batch.x0)
    pasts.keep(replace(batch, x0=batch.x0 + 1))
    recalled = pasts.recall(batch, Random(0))
    assert torch.equal(recalled.truth, batch.truth)
    sink, recent = batch.memory.clean.index(0), batch.memory.clean.index(1)
    assert torch.equal(recalled.x0[:, sink], batch.x0[:, sink])
    apart = (recalled.x0 - batch.x0)[:, recent].flatten(1).mean(1)
    assert {round(float(each), 2) for each in apart} == {0.0, 1.0}


def test_a_past_of_ones_own_is_not_the_truth(bank, monkeypatch):
    batch = draw_batch(bank, Words.of(bank, MODEL), 1, Random(3))
    monkeypatch.setattr(self_forcing, "predict_flow", lambda _model, batch, x, _: 0 * batch.truth)
    past = own_past(None, batch, Random(0))
    assert torch.equal(past.truth, batch.truth)
    made = [number in batch.memory.noisy for number in batch.memory.clean]
    moved = (past.x0 != batch.x0)[0, : batch.num_clean].flatten(1).any(1).tolist()
    assert moved == made


def test_a_faded_past_keeps_its_sink_and_what_it_should_come_to(bank):
    batch = draw_batch(bank, Words.of(bank, MODEL), 8, Random(3))
    sink, recent = batch.memory.clean.index(0), batch.memory.clean.index(1)
    faded = with_faded_past(batch, Random(0))
    assert torch.equal(faded.truth, batch.truth)
    assert torch.equal(faded.x0[:, sink], batch.x0[:, sink])
    changed = (faded.x0[:, recent] != batch.x0[:, recent]).flatten(1).any(1)
    assert 0 < changed.sum() < len(changed)
    kept = faded.x0[:, recent].std((-2, -1)) <= batch.x0[:, recent].std((-2, -1)) + 1e-6
    assert kept.all()


def test_fading_keeps_each_channels_mean():
    latents = torch.randn(2, 16, 3, 8, 14)
    assert torch.equal(fade(latents, 0, 1.0), latents)
    pale = fade(latents, 0, 0.25)
    torch.testing.assert_close(pale.mean((-2, -1)), latents.mean((-2, -1)))
    torch.testing.assert_close(pale.std((-2, -1)), 0.25 * latents.std((-2, -1)))
    steps = [fade(latents, blurs, 1.0).diff(dim=-1).abs().mean() for blurs in range(4)]
    assert steps == sorted(steps, reverse=True)
