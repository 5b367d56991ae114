"""The golden folders of the autoencoders, and the `act` maps of the camera's."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lingbot.verify.__main__ import main
from lingbot.verify.folder import verify
from tests.lingbot.test_verify import (
    assert_one_line,
    change_json,
    change_tensors,
    set_first,
    split,
    write,
)

GOLDEN = Path(__file__).parents[1] / "golden"
QUANTITIES = {
    "vae_wan21": {"decoded", "encoded", "condition"},
    "taew2_1": {"decoded", "encoded"},
}


def copy_of(name, tmp_path):
    return Path(shutil.copytree(GOLDEN / name, tmp_path / name))


@pytest.mark.parametrize("name", QUANTITIES)
def test_golden_folders_are_reproduced(name):
    errors = dict(verify(GOLDEN / name))
    assert errors.keys() == QUANTITIES[name]
    assert max(errors.values()) < 1e-5, errors


def test_an_act_models_maps_are_reproduced():
    assert dict(verify(GOLDEN / "camera"))["control"] < 1e-6


@pytest.mark.parametrize("missing", ["act", "camera"])
def test_the_act_maps_may_be_absent(tmp_path, missing):
    folder = copy_of("camera", tmp_path)
    (folder / f"{missing}.safetensors").unlink()
    expected = 0 if missing == "act" else 2
    assert main([str(folder), "--tolerance", "1e-5"]) == expected


@pytest.mark.parametrize(
    "absent", ["condition.safetensors", "roundtrip.safetensors", "config.json"]
)
def test_each_file_of_the_full_vae_is_checked_alone(tmp_path, absent, capsys):
    folder = copy_of("vae_wan21", tmp_path)
    (folder / absent).unlink()
    assert main([str(folder), "--tolerance", "1e-5"]) == 0
    out, _ = capsys.readouterr()
    assert ("condition" in out) == (absent != "condition.safetensors")
    assert ("decoded" in out) == (absent != "roundtrip.safetensors")


@pytest.mark.parametrize(
    "folder, file, name",
    [
        ("vae_wan21", "roundtrip", "decoded"),
        ("vae_wan21", "roundtrip", "encoded"),
        ("vae_wan21", "condition", "latents"),
        ("taew2_1", "roundtrip", "decoded"),
        ("taew2_1", "roundtrip", "encoded"),
        ("camera", "act", "control"),
    ],
)
@pytest.mark.parametrize("value", [9.0, float("nan")])
def test_a_wrong_number_is_found(tmp_path, folder, file, name, value):
    copy = copy_of(folder, tmp_path)
    change_tensors(file, **{name: set_first(value)})(copy)
    assert main([str(copy)]) == 1


def test_a_latent_that_should_have_settled_is_found(tmp_path):
    """The recorded latents are longer than ours, which repeat the last."""
    folder = copy_of("vae_wan21", tmp_path)
    path = folder / "condition.safetensors"
    tensors = load_file(path)
    tensors["latents"][:, -1] += 0.01
    save_file(tensors, path)
    assert main([str(folder)]) == 1


@pytest.mark.parametrize("frames", [1, 3, 21])
def test_a_shorter_condition_is_compared_as_far_as_it_goes(tmp_path, frames):
    folder = copy_of("vae_wan21", tmp_path)
    change_tensors("condition", latents=lambda t: t[:, :frames])(folder)
    assert main([str(folder), "--tolerance", "1e-5"]) == 0


def test_a_folder_in_shards_is_reproduced(tmp_path):
    folder = copy_of("vae_wan21", tmp_path)
    split(folder, "roundtrip")
    assert main([str(folder), "--tolerance", "1e-5"]) == 0


def change_weights(change):
    """A damage: change the tensors of the VAE's file."""

    def damage(folder):
        path = folder / "Wan2.1_VAE.pth"
        tensors = torch.load(path)
        change(tensors)
        torch.save(tensors, path)

    return damage


WAN_DAMAGE = {
    "no weights": (lambda f: (f / "Wan2.1_VAE.pth").unlink(), "Wan2.1_VAE.pth: No such file"),
    "no weights, no condition": (
        lambda f: [(f / name).unlink() for name in ("Wan2.1_VAE.pth", "condition.safetensors")],
        "Wan2.1_VAE.pth: No such file",
    ),
    "roundtrip alone": (
        lambda f: [path.unlink() for path in f.iterdir() if path.name != "roundtrip.safetensors"],
        "Wan2.1_VAE.pth: No such file",
    ),
    "no tensor": (change_weights(lambda t: t.pop("conv2.bias")), "no tensor 'conv2.bias'"),
    "extra": (change_weights(lambda t: t.update(a=torch.ones(1))), "unknown tensor 'a'"),
    "no floats": (
        change_weights(lambda t: t.update({"conv1.bias": t["conv1.bias"].long()})),
        "tensor 'conv1.bias' is int64 [32], expected floats [32]",
    ),
    "pointer": (
        write("Wan2.1_VAE.pth", b"version https://git-lfs.github.com/spec/v1"),
        "Wan2.1_VAE.pth: is a git-lfs pointer",
    ),
    "empty": (write("Wan2.1_VAE.pth", b""), "Wan2.1_VAE.pth: is empty"),
    "junk": (write("Wan2.1_VAE.pth", b"junk"), "not a whole PyTorch file"),
    "list": (lambda f: torch.save([1], f / "Wan2.1_VAE.pth"), "is a list"),
    "config": (change_json("config", dim=96), "dim is 96, but Wan2.1_VAE.pth has 4"),
    "depth": (change_json("config", num_res_blocks=2), "num_res_blocks is 2"),
    "text": (change_json("config", dim="4"), "config.json: Expected `int | null`, got `str`"),
    "no JSON": (write("config.json", b"{"), "config.json: Input data was truncated"),
    "no z": (change_tensors("roundtrip", z=None), "no tensor 'z'"),
    "flat": (change_tensors("roundtrip", z=lambda t: t[0]), "'z' is float32 [16, 4, 4, 6]"),
    "channels": (change_tensors("roundtrip", z=lambda t: t[:, 1:]), "'z' is float32 [1, 15"),
    "integers": (change_tensors("roundtrip", video=lambda t: t.long()), "'video' is int64"),
    "NaN": (change_tensors("roundtrip", z=set_first(float("nan"))), "'z' has values"),
    "fewer frames": (
        change_tensors("roundtrip", video=lambda t: t[:, :, 1:]),
        "12 frames of 48x32: expected multiples of 4 frames (plus 1)",
    ),
    "longer": (change_tensors("roundtrip", z=lambda t: t[:, :, 1:]), "expected the shape"),
    "odd size": (
        change_tensors("condition", image=lambda t: t[:, 1:]),
        "expected the shape [16, 35, 3, 6]",
    ),
    "other size": (change_tensors("condition", image=lambda t: t[:, 8:]), "expected the shape"),
    "no image": (change_tensors("condition", image=None), "no tensor 'image'"),
    "truncated": (
        lambda f: (f / "condition.safetensors").write_bytes(
            (f / "condition.safetensors").read_bytes()[:-9]
        ),
        "condition.safetensors: not a whole safetensors file",
    ),
}


@pytest.mark.parametrize("damage, reason", WAN_DAMAGE.values(), ids=WAN_DAMAGE)
def test_a_damaged_full_vae_gives_one_line(tmp_path, capsys, damage, reason):
    folder = copy_of("vae_wan21", tmp_path)
    damage(folder)
    assert_one_line(folder, reason, capsys)


def change_parameters(**changes):
    """A damage: change the shapes of a config.json; None removes one."""

    def damage(folder):
        path = folder / "config.json"
        config = json.loads(path.read_bytes())
        shapes = config["parameters"] | changes
        config["parameters"] = {name: shape for name, shape in shapes.items() if shape is not None}
        path.write_text(json.dumps(config))

    return damage


TINY_DAMAGE = {
    "no seed": (write("config.json", b'{"parameters": {}}'), "missing required field `seed`"),
    "no JSON": (write("config.json", b"\xff"), "config.json: JSON is malformed"),
    "no parameters": (change_json("config", parameters={}), "no tensor 'encoder.0.weight'"),
    "no tensor": (
        change_parameters(**{"decoder.22.bias": None}),
        "config.json: no tensor 'decoder.22.bias'",
    ),
    "extra": (change_parameters(extra=[1]), "unknown tensor 'extra'"),
    "shape": (change_parameters(**{"decoder.22.bias": [4]}), "'decoder.22.bias' is float32 [4]"),
    "huge": (change_parameters(extra=[2**40]), "parameters are more than 268435456 numbers"),
    "zero": (change_parameters(**{"decoder.22.bias": [0]}), "Expected `int` >= 1"),
    "text": (change_json("config", seed="3"), "`$.seed`"),
    "no latents": (change_tensors("roundtrip", latents=None), "no tensor 'latents'"),
    "order": (
        change_tensors("roundtrip", latents=lambda t: t.transpose(1, 2)),
        "'latents' is float32",
    ),
    "NaN": (change_tensors("roundtrip", video=set_first(float("nan"))), "'video' has values"),
    "fewer frames": (
        change_tensors("roundtrip", video=lambda t: t[:, 1:]),
        "expected multiples of 4 frames",
    ),
    "shorter": (change_tensors("roundtrip", decoded=lambda t: t[:, 1:]), "expected the shape"),
    "junk": (write("roundtrip.safetensors", b"junk"), "not a whole safetensors file"),
}


@pytest.mark.parametrize("damage, reason", TINY_DAMAGE.values(), ids=TINY_DAMAGE)
def test_a_damaged_tiny_vae_gives_one_line(tmp_path, capsys, damage, reason):
    folder = copy_of("taew2_1", tmp_path)
    damage(folder)
    assert_one_line(folder, reason, capsys)


ACT_DAMAGE = {
    "no keys": (change_tensors("act", wasd=None), "no tensor 'wasd'"),
    "few keys": (
        change_tensors("act", wasd=lambda t: t[:44]),
        "'wasd' needs 0 or 1 for each of 12 latent frames, 4 rows apart",
    ),
    "half": (change_tensors("act", wasd=lambda t: t / 2), "'wasd' needs 0 or 1"),
    "5 keys": (
        change_tensors("act", wasd=lambda t: torch.cat([t, t[:, :1]], dim=1)),
        "'wasd' is float32 [49, 5], expected floats [V 4]",
    ),
    "channels": (change_tensors("act", control=lambda t: t[:, 64:]), "'control' is float32"),
    "fewer frames": (change_tensors("act", control=lambda t: t[:, :, 1:]), "expected the shape"),
    "empty": (write("act.safetensors", b""), "act.safetensors: is empty"),
}


@pytest.mark.parametrize("damage, reason", ACT_DAMAGE.values(), ids=ACT_DAMAGE)
def test_damaged_act_maps_give_one_line(tmp_path, capsys, damage, reason):
    folder = copy_of("camera", tmp_path)
    damage(folder)
    assert_one_line(folder, reason, capsys)
