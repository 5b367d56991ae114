"""The parts of a recipe on a small run, and the files that they leave."""

import dataclasses
import logging

import pytest
import torch
from safetensors.torch import load_file

from tests.pocket.conftest import PARTS, require_cv2

require_cv2()

from pocket.train import RECIPES, run_part
from pocket.training.clips import FIRST_HELD_OUT_SEED
from pocket.training.config import TrainingConfig
from pocket.training.dataset import DATASET, render_dataset, shard_paths
from pocket.training.latents import load_latents

pytestmark = pytest.mark.xdist_group("pocket_run")


def test_latents_have_both_sizes_and_are_white(run, dataset):
    full = load_latents(run, "full")
    assert dataset.latents.shape == (4, 16, 18, 4, 4)  # two clips and their mirror images
    assert full.latents.shape == (4, 16, 18, 4, 6)
    assert full.rope_scale == (1, 1)
    assert dataset.rope_scale == (1, 1.5)
    covariance = torch.cov(full.latents.float().transpose(0, 1).flatten(1))
    assert covariance.diagonal() == pytest.approx(torch.ones(16), rel=0.5)


def test_the_shipped_worlds_small_frames_are_about_half_its_size():
    assert TrainingConfig().rope_scale("full") == (1, 1)
    assert TrainingConfig().rope_scale("small") == (2, 13 / 7)


def test_a_finished_part_is_not_done_again(run, caplog):
    caplog.set_level(logging.INFO)
    for part in PARTS:
        run_part(run, part, 2, seed=FIRST_HELD_OUT_SEED)
    assert not caplog.records


def test_recipes_have_all_parts_in_order():
    stages = TrainingConfig().stages
    assert all(tuple(recipe) == (*PARTS, *stages) for recipe in RECIPES.values())


def test_the_decoders_training_changes_no_latent(run):
    before, after = (
        load_file(run.folder / f"{name}.safetensors") for name in ("whitened", "tiny_vae")
    )
    names = [name for name in before if name.startswith("encoder.")]
    assert all(torch.equal(before[name], after[name]) for name in names)
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_processes_render_the_same_clips(run, tmp_path):
    """A process imports torch, which takes seconds."""
    other = dataclasses.replace(run, folder=tmp_path, num_processes=1)
    render_dataset(other, num_clips=2, seed=FIRST_HELD_OUT_SEED)
    shards = [torch.load(shard_paths(each.folder / DATASET)[0]) for each in (run, other)]
    assert torch.equal(shards[0]["frames"], shards[1]["frames"])
