"""Stages of the DiT's training: progress, and resuming after a stop."""

import dataclasses
from random import Random

import pytest
import torch

from tests.pocket.conftest import require_cv2

require_cv2()

from lingbot.dit.model import WorldModel
from pocket.train import run_part
from pocket.training.batch import draw_batch
from pocket.training.checkpoint import load_checkpoint, save_checkpoint
from pocket.training.clips import Clip, make_clip
from pocket.training.dit import DitTraining
from pocket.training.flow_matching import camera_ablation_gain
from pocket.training.latents import LATENTS
from pocket.training.rollout import save_rollouts
from pocket.training.run import DeadlineReached

pytestmark = pytest.mark.xdist_group("pocket_run")


@pytest.fixture
def new_run(run, tmp_path):
    """A run with the latents and the autoencoder of `run`, and no stage yet."""
    for name in (LATENTS, "tiny_vae.safetensors"):
        (tmp_path / name).symlink_to(run.folder / name)
    return dataclasses.replace(run, folder=tmp_path)


def test_a_stage_that_was_stopped_resumes(new_run):
    late = dataclasses.replace(new_run, deadline=0)
    for step in (1, 2):
        with pytest.raises(DeadlineReached):
            run_part(late, "small", 3, seed=0)
        assert load_checkpoint(new_run.folder / "small.ckpt")["step"] == step
    run_part(new_run, "small", 3, seed=0)
    finished = load_checkpoint(new_run.folder / "small.ckpt")
    assert finished["step"] == 3
    begun = DitTraining.resume(new_run, "full", seed=0)
    assert begun.step == 0
    for name, weight in begun.model.state_dict().items():
        assert torch.equal(weight, finished["average"][name])


def test_a_resumed_stage_moves_as_one_that_was_not_stopped(new_run, dataset, table):
    """Weights, average and momentum of the third step are equal."""
    batch = draw_batch(dataset, table, 1, Random(0))

    def advance(training):
        torch.manual_seed(training.step)
        training.backward(batch, Random(0))
        training.update(1e-3)

    straight = DitTraining.resume(new_run, "small", seed=0)
    for _ in range(2):
        advance(straight)
    straight.save(new_run.folder)
    resumed = DitTraining.resume(new_run, "small", seed=0)
    for training in (straight, resumed):
        advance(training)
    assert resumed.step == straight.step == int(resumed.average.n_averaged) == 3
    for name in ("model", "averaged_model"):
        states = [getattr(training, name).state_dict() for training in (straight, resumed)]
        torch.testing.assert_close(*states, rtol=0, atol=0)


def test_a_stage_needs_the_one_before(tmp_path, run):
    with pytest.raises(FileNotFoundError, match="stage full begins with these weights"):
        DitTraining.resume(dataclasses.replace(run, folder=tmp_path), "full", seed=0)


def test_poses_gain_nothing_for_a_model_that_ignores_them(dataset, table):
    batch = draw_batch(dataset, table, 2, Random(0))
    rows = torch.arange(batch.pose_rows.numel()).view_as(batch.pose_rows)
    batch = dataclasses.replace(batch, pose_rows=rows)
    seen = []

    def ignore_poses(batch, x, _sigma):
        seen.append(batch.pose_rows)
        return 0 * batch.truth

    assert camera_ablation_gain(ignore_poses, batch) == 0
    assert torch.equal(seen[0], rows) and torch.equal(seen[1], rows.flip(0))


def test_flow_matching_moves_the_weights(dataset, table, new_run):
    training = DitTraining.resume(new_run, "small", seed=0)
    batch = draw_batch(dataset, table, 1, Random(0))
    losses = []
    for _ in range(3):
        torch.manual_seed(0)
        losses.append(training.backward(batch, Random(0)))
        training.update(1e-3)
    assert losses[-1] < losses[0]


def test_the_average_begins_at_the_weights_and_then_follows_them(dataset, table, new_run):
    training = DitTraining.resume(new_run, "small", seed=0)
    batch = draw_batch(dataset, table, 1, Random(0))
    expected = None
    for step in range(3):
        training.backward(batch, Random(0))
        training.update(1e-2)
        weight = training.model.head.head.weight.detach()
        share = 1 / (step / 10 + 1)
        expected = weight.clone() if expected is None else expected.lerp(weight, share)
        torch.testing.assert_close(training.averaged_model.head.head.weight, expected)
    assert not torch.equal(training.averaged_model.head.head.weight, weight)


def test_self_forcing_moves_the_weights_and_resumes(dataset, table, new_run):
    weights = WorldModel(new_run.config.model).state_dict()
    save_checkpoint(new_run.folder / "full.ckpt", {"average": weights})
    training = DitTraining.resume(new_run, "self", seed=0)
    before = training.model.head.head.weight.clone()
    batch = draw_batch(dataset, table, 1, Random(0))
    training.backward(batch, Random(0))
    training.update(1e-3)
    assert not torch.equal(training.model.head.head.weight, before)
    training.save(new_run.folder)
    resumed = DitTraining.resume(new_run, "self", seed=0)
    assert resumed.step == resumed.self_forcing.discriminator.step == 1


def test_weights_that_are_lost_are_not_saved(run, tmp_path):
    folder = tmp_path / LATENTS / "small"
    folder.mkdir(parents=True)
    for path in (run.folder / LATENTS / "small").iterdir():
        shard = torch.load(path)
        torch.save(
            {**shard, "latents": torch.full_like(shard["latents"], torch.nan)}, folder / path.name
        )
    lost = dataclasses.replace(run, folder=tmp_path, save_every_s=0)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        run_part(lost, "small", 3, seed=0)
    assert not (tmp_path / "small.ckpt").exists()


def test_a_report_rolls_out_held_out_clips(new_run):
    clip = make_clip(1_000_000, size=new_run.config.size)
    model = WorldModel(new_run.config.model)
    grid = new_run.folder / "grid.png"
    assert isinstance(clip, Clip)
    quality = save_rollouts(new_run, grid, model, [clip], size="small")
    assert len(quality) == 6 and all(0 < decibels < 60 for decibels in quality)
    assert grid.exists()
