from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from lingbot.dit.weights import load_dit, save_dit
from lingbot.errors import WeightsError

GOLDEN = Path(__file__).parents[2] / "golden" / "dit_cam_window"
CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


def test_a_saved_model_is_read_again(tmp_path):
    model = load_dit(GOLDEN, **CPU)
    save_dit(model, tmp_path)
    official = load_file(GOLDEN / "diffusion_pytorch_model.safetensors")
    saved = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    assert saved.keys() == official.keys()
    assert all(torch.equal(saved[name], official[name]) for name in official)
    assert load_dit(tmp_path, **CPU).config == model.config


def test_shards_are_read_through_their_index(tmp_path):
    tensors = load_file(GOLDEN / "diffusion_pytorch_model.safetensors")
    names = sorted(tensors)
    weight_map = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
    for part in set(weight_map.values()):
        save_file({n: tensors[n] for n in names if weight_map[n] == part}, tmp_path / part)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_bytes(msgspec.json.encode({"weight_map": weight_map}))
    (tmp_path / "config.json").write_bytes((GOLDEN / "config.json").read_bytes())
    assert load_dit(tmp_path, **CPU).config.num_layers == 2


def test_an_unknown_tensor_is_named(tmp_path):
    save_dit(load_dit(GOLDEN, **CPU), tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(path), "blocks.0.surprise": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"blocks\.0\.surprise"):
        load_dit(tmp_path, **CPU)


def test_tensors_that_do_not_fit_are_told_in_one_line(tmp_path):
    save_dit(load_dit(GOLDEN, **CPU), tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor for name, tensor in tensors.items() if "blocks.0" not in name}, path)
    with pytest.raises(WeightsError, match=r"no tensor 'blocks\.0") as raised:
        load_dit(tmp_path, **CPU)
    text = str(raised.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) <= 400


def test_a_config_of_another_kind_is_named(tmp_path):
    save_dit(load_dit(GOLDEN, **CPU), tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(WeightsError, match=r"config\.json: Expected `object`, got `array`"):
        load_dit(tmp_path, **CPU)
