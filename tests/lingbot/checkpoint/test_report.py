"""The command `python -m lingbot.checkpoint`."""

import subprocess
import sys

import pytest
from msgspec.structs import replace
from safetensors.torch import save_file

from lingbot.checkpoint.__main__ import main
from lingbot.checkpoint.layout import find_checkpoint
from lingbot.checkpoint.report import check_parts, describe, find_models
from lingbot.config import PRESETS
from lingbot.errors import WeightsError
from tests.lingbot.checkpoint.folders import (
    tiny_tensors,
    write_alone,
    write_base,
    write_config,
    write_diffusers,
    write_parts,
    write_shards,
    write_v2_14b,
    write_v2_small,
)
from tests.lingbot.dit.test_names import SIZES


def run(capsys, *arguments):
    """The exit status, the printed pairs, and the reason."""
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, dict(line.split(": ", 1) for line in out.splitlines()), err


def test_a_folder_that_can_be_served_is_described(tmp_path, capsys):
    write_base(tmp_path)
    status, rows, err = run(capsys, tmp_path)
    fast = tmp_path / "lingbot_world_fast"
    num_parameters = sum(tensor.numel() for tensor in tiny_tensors().values())
    assert (status, err) == (0, "")
    assert rows == {
        "model": "of no published size",
        "variant": "cam",
        "sizes": f"dim 128, ffn_dim 96, 3 blocks, 1 heads, {num_parameters:,} parameters",
        "text": "512 tokens of width 64",
        "weights": f"F32, 4 files, {num_parameters * 4 / 1e9:.3g} GB, {fast}",
        "config": str(fast / "config.json"),
        "vae": str(tmp_path / "Wan2.1_VAE.pth"),
        "tiny_vae": "none",
        "text_encoder": str(tmp_path / "models_t5_umt5-xxl-enc-bf16.pth"),
        "tokenizer": str(tmp_path / "google" / "umt5-xxl" / "tokenizer.json"),
    }


def test_the_pocket_world_needs_no_other_part(capsys):
    status, rows, err = run(capsys, PRESETS["pocket"].folder)
    assert (status, rows["model"], err) == (0, "pocket", "")
    assert rows["memory of pocket"].startswith("GiB of memory: weights 0.0")


def test_parts_come_from_a_second_folder(tmp_path, capsys):
    write_v2_small(tmp_path / "model")
    write_parts(tmp_path / "parts")
    status, rows, _ = run(capsys, tmp_path / "model", "--assets", tmp_path / "parts")
    assert status == 0 and rows["config"] == "none: the shapes give it"
    status, rows, err = run(capsys, tmp_path / "model")
    assert status == 1 and rows["vae"] == "none"  # the parts that were found are printed, too
    assert err.startswith(f"checkpoint: {tmp_path / 'model'}: no Wan VAE") and err.count("\n") == 1


def test_a_tiny_vae_is_enough(tmp_path, capsys):
    write_base(tmp_path)
    (tmp_path / "Wan2.1_VAE.pth").unlink()
    assert run(capsys, tmp_path)[0] == 1
    tiny = PRESETS["pocket"].folder / PRESETS["pocket"].vae_file
    (tmp_path / "tiny.safetensors").symlink_to(tiny)
    assert run(capsys, tmp_path)[0] == 0


def test_a_base_model_is_noted(tmp_path, capsys):
    write_base(tmp_path)
    status, rows, _ = run(capsys, tmp_path / "high_noise_model", "--assets", tmp_path)
    assert "base model" in rows["note"] and status == 0


def test_a_damaged_tensor_fails_without_reading_weights(tmp_path, capsys):
    tensors = tiny_tensors()
    tensors["blocks.1.norm3.bias"] = tensors["blocks.1.norm3.bias"][:-1]
    write_shards(tmp_path, tensors)
    write_parts(tmp_path)
    status, rows, err = run(capsys, tmp_path)
    assert (status, rows) == (1, {})
    assert "-00003-of-00004.safetensors: tensor 'blocks.1.norm3.bias' is F32 [127]" in err


@pytest.mark.parametrize(
    "write, size, control, models",
    [
        (write_base, "14b", "cam", ["v1-14b"]),
        (write_base, "14b", "act", ["v1-14b-act"]),
        (write_v2_14b, "14b", "cam", ["v2-14b"]),
        (write_diffusers, "14b", "cam", ["v1-14b", "v2-14b"]),
        (write_alone, "14b", "cam", ["v1-14b", "v2-14b"]),
        (write_alone, "14b", "act", ["v1-14b-act"]),
        (write_v2_small, "1.3b", "cam", ["v2-1.3b"]),
        (write_v2_small, "1.3b", "act", []),
    ],
)
def test_published_models_are_told_by_shapes_and_names(tmp_path, write, size, control, models):
    """The folders are tiny, and their shapes are replaced by the published ones."""
    write(tmp_path)
    found = find_checkpoint(tmp_path)
    config = replace(SIZES[size], control=control)
    assert find_models(replace(found, config=config)) == models


@pytest.mark.parametrize("name", ["lingbot_v2_bf16", "model", "diffusion_pytorch_model"])
def test_a_whole_file_of_14b_may_be_either_model(tmp_path, name):
    """It may have been renamed, and its schedule is that of one of them."""
    path = tmp_path / f"{name}.safetensors"
    save_file(tiny_tensors(), path)
    found = replace(find_checkpoint(path), config=SIZES["14b"])
    assert dict(describe(found, num_parameters=1))["model"] == (
        "v1-14b or v2-14b: the file's name does not say which"
    )


def test_a_wrong_shape_of_a_published_width_is_no_model(tmp_path):
    write_base(tmp_path)
    wrong = replace(find_checkpoint(tmp_path), config=replace(SIZES["14b"], num_heads=20))
    assert find_models(wrong) == []
    with pytest.raises(WeightsError, match="num_heads 20, but the published one .* num_heads 40"):
        check_parts(wrong)


def test_the_variant_names_diffusers(tmp_path, capsys):
    write_diffusers(tmp_path)
    status, rows, _ = run(capsys, tmp_path)
    assert (status, rows["variant"]) == (0, "cam, in diffusers' layout")


def test_the_command_exits_with_its_status(tmp_path):
    write_config(tmp_path)
    command = [sys.executable, "-m", "lingbot.checkpoint", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"checkpoint: {tmp_path}: no DiT: no .safetensors file holds LingBot-World's tensors\n"
    )
