"""The recipe's parts on a run that is small and short, and what they leave behind."""

import logging
from dataclasses import replace
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lingbot.dit.model import WorldModel
from pocket.train import do_part
from pocket.training import dit, run
from pocket.training.batch import Words, draw_batch
from pocket.training.data import FIRST_HELD_OUT_SEED, Footage
from pocket.training.dit import MODEL, Training
from pocket.training.latents import load_latents
from pocket.training.run import (
    Machine,
    Muon,
    OutOfTime,
    load_checkpoint,
    orthogonal,
    save_checkpoint,
)

CPU = torch.device("cpu")
HERE = Machine(CPU, compiles=False)


def test_latents_are_of_both_sizes_and_white(folder, bank):
    full = load_latents(folder, "full", device=CPU)
    assert bank.latents.shape == (4, 16, 18, 8, 14)  # two clips and their mirror images
    assert full.latents.shape == (4, 16, 18, 16, 26)
    assert full.rope_scale == (1, 1)
    assert bank.rope_scale == (2, 13 / 7)
    covariance = torch.cov(full.latents.float().transpose(0, 1).flatten(1))
    assert covariance.diagonal() == pytest.approx(torch.ones(16), rel=0.5)


def test_a_part_that_is_done_is_not_done_again(folder, caplog):
    caplog.set_level(logging.INFO)
    for part in ("bank", "vae", "whiten", "decoder", "latents"):
        do_part(part, folder, HERE, 2, seed=FIRST_HELD_OUT_SEED)
    assert not caplog.records


def test_a_stage_that_was_cut_off_goes_on(folder, no_sheets, small_model, monkeypatch):
    late = Machine(CPU, deadline=0, compiles=False)
    monkeypatch.setitem(dit.STAGES, "small", dit.Stage("small", 1, 1e-3, after=None))
    for step in (1, 2):
        with pytest.raises(OutOfTime):
            do_part("small", folder, late, 3, seed=0)
        assert load_checkpoint(folder / "small.ckpt")["step"] == step
    do_part("small", folder, HERE, 3, seed=0)
    finished = load_checkpoint(folder / "small.ckpt")
    assert finished["step"] == 3
    begun = Training.resume(folder, "full", seed=0, device=CPU)
    assert begun.step == 0
    for name, weight in begun.model.state_dict().items():
        assert torch.equal(weight, finished["average"][name])


def test_a_stage_wants_the_one_before(tmp_path):
    with pytest.raises(FileNotFoundError, match="stage full goes on there"):
        Training.resume(tmp_path, "full", seed=0, device=CPU)


def test_checkpoints_come_in_small_files(tmp_path):
    content = {"weights": torch.arange(6e6)}
    save_checkpoint(tmp_path / "run.ckpt", content)
    sizes = [part.stat().st_size for part in (tmp_path / "run.ckpt").iterdir()]
    assert len(sizes) == 2 and max(sizes) <= 16e6
    assert torch.equal(load_checkpoint(tmp_path / "run.ckpt")["weights"], content["weights"])


@pytest.mark.parametrize("old", ["gone", "half deleted"])
def test_a_checkpoint_survives_a_kill_while_it_takes_its_place(tmp_path, old):
    path = tmp_path / "run.ckpt"
    save_checkpoint(path, {"step": 1})
    path.rename(tmp_path / "run.written")
    if old == "half deleted":
        path.mkdir()
        (path / "001").write_bytes(b"the end of it")
    assert load_checkpoint(path) == {"step": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["run.ckpt"]
    assert load_checkpoint(tmp_path / "other.ckpt") is None


def test_poses_are_worth_nothing_to_a_model_that_is_deaf_to_them(bank, monkeypatch):
    batch = draw_batch(bank, Words.of(bank, MODEL), 2, Random(0))
    batch = replace(batch, poses=torch.arange(batch.poses.numel()).view_as(batch.poses))
    told = []

    def deaf(_model, batch, x, _sigma):
        told.append(batch.poses)
        return 0 * batch.truth

    monkeypatch.setattr(dit, "predict_flow", deaf)
    assert dit.camera_worth(None, batch) == 0
    assert torch.equal(told[0], batch.poses) and torch.equal(told[1], batch.poses.flip(0))


def test_flow_matching_moves_the_weights(bank, small_model, tmp_path):
    training = Training.resume(tmp_path, "small", seed=0, device=CPU)
    batch = draw_batch(bank, Words.of(bank, MODEL), 1, Random(0))
    losses = []
    for _ in range(3):
        torch.manual_seed(0)
        losses.append(training.learn(batch, Random(0)))
        training.advance(1e-3)
    assert losses[-1] < losses[0]


def test_forcing_itself_moves_the_weights_and_goes_on_where_it_was_cut_off(
    bank, folder, small_model, tmp_path
):
    (tmp_path / "tiny_vae.safetensors").symlink_to(folder / "tiny_vae.safetensors")
    save_checkpoint(tmp_path / "full.ckpt", {"average": WorldModel(small_model).state_dict()})
    training = Training.resume(tmp_path, "self", seed=0, device=CPU)
    before = training.model.head.head.weight.clone()
    batch = draw_batch(bank, Words.of(bank, MODEL), 1, Random(0))
    training.learn(batch, Random(0))
    training.advance(1e-3)
    assert not torch.equal(training.model.head.head.weight, before)
    training.save(tmp_path)
    resumed = Training.resume(tmp_path, "self", seed=0, device=CPU)
    assert resumed.step == resumed.self_forcing.critic.step == 1


def test_the_decoder_changes_no_latent(folder):
    before, after = (load_file(folder / f"{name}.safetensors") for name in ("whitened", "tiny_vae"))
    names = [name for name in before if name.startswith("encoder.")]
    assert all(torch.equal(before[name], after[name]) for name in names)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_footage_takes_in_what_is_rendered_meanwhile(tmp_path):
    torch.save({"frames": torch.zeros(1, 5, 8, 8, 3)}, tmp_path / "0000010.pt")
    footage = Footage(tmp_path, CPU)
    torch.save({"frames": torch.ones(1, 5, 8, 8, 3)}, tmp_path / "0000000.pt")
    footage.look_again()
    footage.look_again()
    assert [shard.mean() for shard in footage.shards] == [0, 1]


def test_weights_that_are_lost_are_not_saved(folder, small_model, no_sheets, tmp_path, monkeypatch):
    (tmp_path / "latents").symlink_to(folder / "latents")
    monkeypatch.setattr(Training, "learn", lambda *_: torch.tensor(float("nan")))
    monkeypatch.setattr(Training, "advance", lambda *_: None)
    monkeypatch.setattr(dit, "SAVE_EVERY", 0)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        do_part("small", tmp_path, HERE, 3, seed=0)
    assert not (tmp_path / "small.ckpt").exists()


def test_weights_of_one_shape_are_moved_together_as_alone():
    torch.manual_seed(0)
    shapes = [(4, 6, 3, 3), (4, 6, 3, 3), (20, 8)]
    together = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    together[1].data = together[1].data.to(memory_format=torch.channels_last)
    alone = [nn.Parameter(weight.detach().clone()) for weight in together]
    optimizers = [Muon(together), *(Muon([weight]) for weight in alone)]
    for _ in range(2):
        for one, other in zip(together, alone, strict=True):
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 0.1
            optimizer.step()
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("shape", [(3, 8, 20), (3, 20, 8)])
def test_matrices_are_made_orthogonal_together_as_alone(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    together = orthogonal(matrices)
    for one, matrix in zip(together, matrices, strict=True):
        torch.testing.assert_close(one, orthogonal(matrix[None])[0])
    values = torch.linalg.svdvals(together)
    assert values.min() > 0.5 and values.max() < 1.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_are_of_the_processors_fastest_type(dtype, monkeypatch):
    monkeypatch.setattr(run, "fastest_dtype", lambda device: dtype)
    with HERE.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype
