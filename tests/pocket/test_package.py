"""Shipping the weights of a run, and runs that continue from shipped weights."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from tests.pocket.conftest import require_cv2

require_cv2()

from lingbot.dit.model import WorldModel
from lingbot.runtime.presets import load_engine
from pocket.package import SHIPPED, package, unpack
from pocket.train import run_part
from pocket.training.checkpoint import save_checkpoint
from pocket.training.config import TrainingConfig
from pocket.training.dataset import DATASET
from pocket.training.dit import DitTraining
from pocket.training.latents import load_codec

pytestmark = pytest.mark.xdist_group("pocket_run")


def shipped_model(folder):
    return load_engine("pocket", weights=folder, dtype=torch.float32).model


@pytest.fixture
def finished(run, tmp_path):
    """The folder of a run with an autoencoder and two stages, and the stages' weights."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "tiny_vae.safetensors").symlink_to(run.folder / "tiny_vae.safetensors")
    (folder / "train.log").write_text("a log\n")
    weights = {name: WorldModel(run.config.model).state_dict() for name in ("full", "self")}
    for name, average in weights.items():
        save_checkpoint(folder / f"{name}.ckpt", {"average": average})
    return folder, weights


def test_the_last_full_size_stage_is_shipped(finished, config, tmp_path):
    folder, weights = finished
    package(folder, tmp_path / "box", config)
    shipped = shipped_model(tmp_path / "box")
    assert shipped.config == config.model
    torch.testing.assert_close(shipped.state_dict(), weights["self"], rtol=1e-3, atol=1e-3)


def test_shipped_weights_are_interpolated(finished, config, tmp_path):
    folder, weights = finished
    package(folder, tmp_path / "box", config)
    save_checkpoint(folder / "self.ckpt", {"average": weights["full"]})
    package(folder, tmp_path / "box", config, lerp=0.25)
    for name, weight in shipped_model(tmp_path / "box").state_dict().items():
        mean = 0.25 * weights["full"][name] + 0.75 * weights["self"][name]
        torch.testing.assert_close(weight, mean, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("lerp", [0, 1.5])
def test_a_lerp_outside_its_range_is_refused(finished, config, tmp_path, lerp):
    with pytest.raises(ValueError, match=f"at most 1, not {lerp}"):
        package(finished[0], tmp_path / "box", config, lerp=lerp)
    assert not (tmp_path / "box").exists()


def test_a_run_without_a_full_size_stage_is_refused(config, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none of full\.ckpt, self\.ckpt"):
        package(tmp_path, tmp_path / "box", config)
    assert not (tmp_path / "box").exists()


def test_an_incomplete_run_does_not_change_the_target(finished, config, tmp_path):
    folder, _ = finished
    package(folder, tmp_path / "box", config)
    before = {path.name: path.read_bytes() for path in (tmp_path / "box").iterdir()}
    for name in ("train.log", "tiny_vae.safetensors"):
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            package(folder, tmp_path / "box", config)
    assert {path.name: path.read_bytes() for path in (tmp_path / "box").iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["full", "self"])
def test_a_run_continues_from_shipped_weights(run, tmp_path, stage):
    folder = tmp_path / "more"
    unpack(SHIPPED, folder, stage)
    shipped_run = dataclasses.replace(run, folder=folder, config=TrainingConfig())
    begun = DitTraining.resume(shipped_run, stage, seed=0)
    shipped = load_engine("pocket", dtype=torch.float32)
    assert begun.step == 0
    torch.testing.assert_close(begun.model.state_dict(), shipped.model.state_dict())
    codec = load_codec(folder, device=run.device)
    image = torch.rand(1, 3, 128, 208)
    torch.testing.assert_close(
        codec.encode_condition(image, chunk=3), shipped.vae.encode_condition(image, chunk=3)
    )
    with pytest.raises(FileExistsError):
        unpack(SHIPPED, folder, stage)


@pytest.mark.slow
def test_a_decoder_continues_from_shipped_weights_and_the_rest_stays(run, tmp_path):
    folder, box = tmp_path / "run", tmp_path / "box"
    unpack(SHIPPED, folder, "decoder")
    (folder / DATASET).symlink_to(run.folder / DATASET)
    run_part(dataclasses.replace(run, folder=folder), "decoder", 1, seed=0)
    package(folder, box, TrainingConfig())
    before, after = (load_file(at / "tiny_vae.safetensors") for at in (SHIPPED, box))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    models = [shipped_model(at) for at in (SHIPPED, box)]
    torch.testing.assert_close(*(model.state_dict() for model in models))
