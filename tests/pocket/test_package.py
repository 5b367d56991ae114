"""Weights go into the box, and a run goes on from there."""

import pytest
import torch
from safetensors.torch import load_file

from lingbot.dit.model import WorldModel
from lingbot.runtime.presets import load_engine
from pocket.package import SHIPPED, package, unpack
from pocket.train import do_part
from pocket.training.dit import MODEL, Training
from pocket.training.latents import load_codec
from pocket.training.run import Machine, save_checkpoint

CPU = torch.device("cpu")
HERE = Machine(CPU, compiles=False)


def test_the_last_full_stage_is_shipped(folder, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("tiny_vae.safetensors", "train.log"):
        source = folder / name
        (tmp_path / "run" / name).write_bytes(source.read_bytes() if source.exists() else b"")
    with pytest.raises(FileNotFoundError, match=r"none of full\.ckpt, self\.ckpt"):
        package(tmp_path / "run", tmp_path / "box")
    models = {name: WorldModel(MODEL).state_dict() for name in ("full", "self")}
    for name, weights in models.items():
        save_checkpoint(tmp_path / "run" / f"{name}.ckpt", {"average": weights})
    for share in (0, 1.5):
        with pytest.raises(ValueError, match=f"at most 1, not {share}"):
            package(tmp_path / "run", tmp_path / "box", share=share)
    package(tmp_path / "run", tmp_path / "box")
    shipped = load_engine("pocket", weights=tmp_path / "box", dtype=torch.float32).model
    assert shipped.config == MODEL
    torch.testing.assert_close(shipped.state_dict(), models["self"], rtol=1e-3, atol=1e-3)
    save_checkpoint(tmp_path / "run" / "self.ckpt", {"average": models["full"]})
    package(tmp_path / "run", tmp_path / "box", share=0.25)
    mixed = load_engine("pocket", weights=tmp_path / "box", dtype=torch.float32).model
    for name, weight in mixed.state_dict().items():
        mean = 0.25 * models["full"][name] + 0.75 * models["self"][name]
        torch.testing.assert_close(weight, mean, rtol=2e-3, atol=2e-3)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "box").iterdir()}
    for name in ("train.log", "tiny_vae.safetensors"):
        (tmp_path / "run" / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            package(tmp_path / "run", tmp_path / "box")
    assert {path.name: path.read_bytes() for path in (tmp_path / "box").iterdir()} == whole


@pytest.mark.parametrize("stage", ["full", "self"])
def test_a_run_goes_on_from_shipped_weights(tmp_path, stage):
    unpack(SHIPPED, tmp_path / "more", stage)
    begun = Training.resume(tmp_path / "more", stage, seed=0, device=CPU)
    shipped = load_engine("pocket", dtype=torch.float32)
    assert begun.step == 0
    torch.testing.assert_close(begun.model.state_dict(), shipped.model.state_dict())
    codec = load_codec(tmp_path / "more", device=CPU)
    picture = torch.rand(1, 3, 128, 208)
    torch.testing.assert_close(
        codec.encode_condition(picture, chunk=3), shipped.vae.encode_condition(picture, chunk=3)
    )
    with pytest.raises(FileExistsError):
        unpack(SHIPPED, tmp_path / "more", stage)


def test_a_decoder_goes_on_from_shipped_weights_and_the_rest_stays(folder, tmp_path):
    run, box = tmp_path / "run", tmp_path / "box"
    unpack(SHIPPED, run, "decoder")
    (run / "bank").symlink_to(folder / "bank")
    do_part("decoder", run, HERE, 1, seed=0)
    package(run, box)
    before, after = (load_file(at / "tiny_vae.safetensors") for at in (SHIPPED, box))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    models = [load_engine("pocket", weights=at, dtype=torch.float32).model for at in (SHIPPED, box)]
    torch.testing.assert_close(*(model.state_dict() for model in models))
