import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from lingbot.config import ModelConfig
from lingbot.dit.model import WorldModel
from lingbot.dit.weights import build_on_meta, load_dit, save_dit, to_checkpoint, to_internal
from lingbot.errors import WeightsError
from tests.lingbot.checkpoint.folders import tiny_tensors, write_shards

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


def load_at_once(tensors, config, dtype):
    """The slow way: all tensors in memory, cast, then given to the model."""
    model = WorldModel(config)
    state = {to_internal(name): tensor.to(dtype) for name, tensor in tensors.items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.state_dict()


@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_streamed_tensors_equal_those_loaded_at_once(tmp_path, stored, dtype):
    tensors = {name: tensor.to(stored) for name, tensor in tiny_tensors().items()}
    write_shards(tmp_path, tensors)
    model = load_dit(tmp_path, device=torch.device("cpu"), dtype=dtype)
    expected = load_at_once(tensors, model.config, dtype)
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert {tensor.dtype for tensor in state.values()} == {dtype}
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_model_keeps_no_file_and_no_other_tensors_memory(tmp_path):
    """Each parameter owns its bytes: a file may be replaced while the model lives."""
    write_shards(tmp_path, tiny_tensors())
    model = load_dit(tmp_path, **CPU)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(bytes(path.stat().st_size))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_named_tensors_stay_in_float32(tmp_path):
    write_shards(tmp_path, tiny_tensors())
    options = {"device": torch.device("cpu"), "dtype": torch.bfloat16}
    model = load_dit(tmp_path, **options, stays_float32=lambda name: "norm" in name)
    kept = {to_checkpoint(n) for n, t in model.state_dict().items() if t.dtype == torch.float32}
    assert kept == {name for name in tiny_tensors() if "norm" in name}
    assert "blocks.2.cross_attn.norm_q.weight" in kept


def test_a_long_load_logs_its_progress(tmp_path, caplog):
    write_shards(tmp_path, tiny_tensors())
    with caplog.at_level("INFO", logger="lingbot"):
        load_dit(tmp_path, **CPU)
        assert not caplog.records  # in 10 s all of it is read
        load_dit(tmp_path, **CPU, log_every_s=0.0)
    assert caplog.records[-1].getMessage().startswith("loading weights: 0.0 of 0.0 GB, ")


def test_a_file_that_is_cut_while_it_is_read_is_named(tmp_path, monkeypatch):
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    save_dit(load_dit(GOLDEN, **CPU), tmp_path)
    whole = build_on_meta(weights)
    weights.write_bytes(weights.read_bytes()[:-4])
    monkeypatch.setattr("lingbot.dit.weights.build_on_meta", lambda path: whole)
    with pytest.raises(WeightsError, match=r"model\.safetensors: ends within tensor '.+'"):
        load_dit(tmp_path, **CPU)


LARGE = ModelConfig(
    dim=1024, ffn_dim=4096, freq_dim=256, num_heads=8, num_layers=6, text_dim=64, text_len=8
)


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory):
    """500 MB in eight shards. Values are the same everywhere, which saves time."""
    folder = tmp_path_factory.mktemp("large")
    with torch.device("meta"):
        state = WorldModel(LARGE).state_dict()
    tensors = {to_checkpoint(name): torch.full(t.shape, 0.5) for name, t in state.items()}
    write_shards(folder, tensors, total=8)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_load_needs_less_than_a_shard_above_the_model(large_folder, dtype):
    """The peak of resident memory in a process of its own. The limit is 1.3 shards."""
    command = [sys.executable, "-m", "tests.lingbot.dit.load_memory", str(large_folder), dtype]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    measured = json.loads(done.stdout)
    shard = max(path.stat().st_size for path in large_folder.glob("*.safetensors"))
    print(f"{dtype}: {measured}, largest shard {shard}")
    assert measured["model"] > 2 * shard  # the model is large enough for a meaningful limit
    assert measured["peak"] < measured["model"] + 1.3 * shard


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
