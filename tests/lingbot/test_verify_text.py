"""The kind `t5` of golden folders."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lingbot.verify.__main__ import main
from lingbot.verify.folder import verify

GOLDEN = Path(__file__).parents[1] / "golden/t5"
WEIGHTS, FORWARD = "models_t5_tiny.pth", "forward.safetensors"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(GOLDEN, tmp_path / "copy"))


def change_weights(folder, change):
    tensors = torch.load(folder / WEIGHTS)
    change(tensors)
    torch.save(tensors, folder / WEIGHTS)


def change_forward(folder, name, change):
    tensors = load_file(folder / FORWARD)
    tensors[name] = change(tensors[name]).contiguous()
    save_file(tensors, folder / FORWARD)


def test_the_golden_folder_is_reproduced():
    assert dict(verify(GOLDEN))["out"] < 1e-5


def test_any_name_of_the_weights_and_no_config_will_do(copy):
    (copy / WEIGHTS).rename(copy / "models_t5_umt5-xxl-enc-bf16.pth")
    (copy / "config.json").unlink()
    assert dict(verify(copy))["out"] < 1e-5


def test_swapped_halves_of_the_ffn_are_found(copy):
    """Both have one shape, so that no check but this one sees the difference."""

    def swap(tensors):
        for i in range(3):
            gate, up = (f"blocks.{i}.ffn.{name}.weight" for name in ("gate.0", "fc1"))
            tensors[gate], tensors[up] = tensors[up], tensors[gate]

    change_weights(copy, swap)
    assert dict(verify(copy))["out"] > 0.5
    assert main([str(copy)]) == 1


def test_padding_does_not_count(copy):
    def spoil(out):
        out[1, 15:] = 100.0
        return out

    change_forward(copy, "out", spoil)
    assert dict(verify(copy))["out"] < 1e-5


def test_a_wrong_number_is_found(copy):
    change_weights(copy, lambda tensors: tensors["blocks.2.attn.v.weight"].mul_(1.01))
    assert main([str(copy)]) == 1


def test_nan_is_not_below_the_tolerance(copy):
    change_forward(copy, "out", lambda out: out / 0)
    assert main([str(copy)]) == 1


DAMAGE = {
    "truncated weights": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-999]),
        "not a whole PyTorch file",
    ),
    "no forward": (lambda folder: (folder / FORWARD).unlink(), "holds none of"),
    "junk": (lambda folder: (folder / FORWARD).write_bytes(b"junk"), "not a whole safetensors"),
    "a tensor is missing": (
        lambda folder: change_weights(folder, lambda tensors: tensors.pop("norm.weight")),
        "no tensor 'encoder.final_layer_norm.weight'",
    ),
    "ids out of range": (
        lambda folder: change_forward(folder, "ids", lambda ids: ids + 400),
        "'ids' has 909, expected 0 to 511",
    ),
    "ids below 0": (lambda folder: change_forward(folder, "ids", lambda ids: -ids), "below 0"),
    "ids as floats": (
        lambda folder: change_forward(folder, "ids", torch.Tensor.float),
        "'ids' is float32 [2, 24], expected whole numbers",
    ),
    "a mask with a hole": (
        lambda folder: change_forward(folder, "mask", lambda mask: mask.flip(1)),
        "'mask' must be ones",
    ),
    "an empty mask": (
        lambda folder: change_forward(folder, "mask", torch.zeros_like),
        "'mask' must be ones",
    ),
    "a narrow output": (
        lambda folder: change_forward(folder, "out", lambda out: out[..., :32]),
        "expected 2 prompts of at least 24 tokens, 64 wide",
    ),
    "a short output": (
        lambda folder: change_forward(folder, "out", lambda out: out[:, :5]),
        "'out' is [2, 5, 64], expected 2 prompts of at least 24 tokens",
    ),
    "two encoders": (
        lambda folder: shutil.copy(folder / WEIGHTS, folder / "models_t5_b.pth"),
        "models_t5_b.pth and models_t5_tiny.pth, expected one",
    ),
    "another config": (
        lambda folder: (folder / "config.json").write_text(json.dumps({"num_heads": 8})),
        "num_heads is 8, but the tensors have 4",
    ),
    "a folder": (
        lambda folder: ((folder / WEIGHTS).unlink(), (folder / WEIGHTS).mkdir()),
        "holds none of",
    ),
    "no config": (lambda folder: (folder / "config.json").write_text("null"), "got `null`"),
}


@pytest.mark.parametrize("damage, reason", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_gives_one_line(copy, damage, reason, capsys):
    damage(copy)
    assert main([str(copy)]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith("verify: ") and reason in line and len(line) < 400
