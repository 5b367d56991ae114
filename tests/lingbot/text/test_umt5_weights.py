import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import UMT5EncoderModel

from lingbot.errors import LingbotError, WeightsError
from lingbot.text.umt5_weights import (
    EncoderConfig,
    build_config,
    infer_shape,
    load_umt5_model,
    to_transformers,
)
from tests.lingbot.tiny_umt5 import SIZES, original_tensors, write_diffusers, write_original

CPU = torch.device("cpu")


@pytest.fixture
def original(tmp_path):
    return write_original(tmp_path)


@pytest.fixture
def folder(tmp_path):
    return write_diffusers(tmp_path)


def test_every_tensor_arrives_under_its_new_name(original):
    tensors, model = original_tensors(), load_umt5_model(original, device=CPU)
    parts = dict(model.named_parameters())
    block = "encoder.block.1.layer"
    for name, there in {
        "token_embedding": "shared",
        "blocks.1.attn.k": f"{block}.0.SelfAttention.k",
        "blocks.1.pos_embedding.embedding": f"{block}.0.SelfAttention.relative_attention_bias",
        "blocks.1.norm1": f"{block}.0.layer_norm",
        "blocks.1.norm2": f"{block}.1.layer_norm",
        "blocks.1.ffn.gate.0": f"{block}.1.DenseReluDense.wi_0",
        "blocks.1.ffn.fc1": f"{block}.1.DenseReluDense.wi_1",
        "blocks.1.ffn.fc2": f"{block}.1.DenseReluDense.wo",
        "norm": "encoder.final_layer_norm",
    }.items():
        assert torch.equal(parts[f"{there}.weight"], tensors[f"{name}.weight"]), name
    assert not any(p.is_meta or p.requires_grad for p in parts.values())
    assert model.encoder.embed_tokens.weight.data_ptr() == model.shared.weight.data_ptr()


def test_umt5_xxl_has_242_tensors_and_5_68_billion_parameters():
    """The shapes of `models_t5_umt5-xxl-enc-bf16.pth`, without its numbers."""
    sizes = {"dim": 4096, "ffn": 10240, "heads": 64, "layers": 24, "buckets": 32, "vocab": 256384}
    with torch.device("meta"):
        one = original_tensors_on_meta(**sizes)
        shape = infer_shape(one, source=Path("x"))
        model = UMT5EncoderModel(build_config(EncoderConfig(), shape))
    assert (shape.d_kv, shape.num_layers, shape.num_heads) == (64, 24, 64)
    assert len(one) == 242 and sum(t.numel() for t in one.values()) == 5_680_910_336
    expected = {name: t.shape for name, t in model.state_dict().items() if "embed_" not in name}
    assert {name: t.shape for name, t in one.items()} == expected


def original_tensors_on_meta(**sizes):
    tiny = original_tensors(dim=4, ffn=6, heads=4, layers=sizes["layers"], buckets=8, vocab=10)
    real = {4: sizes["dim"], 6: sizes["ffn"], 10: sizes["vocab"], 8: sizes["buckets"]}
    grown = {}
    for name, tensor in tiny.items():
        shape = [real[size] for size in tensor.shape]
        if "pos_embedding" in name:
            shape[1] = sizes["heads"]
        grown[to_transformers(name)] = torch.empty(shape, device="meta")
    return grown


def test_a_folder_may_hold_the_tied_embedding_twice(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"].clone()}, path)
    twice = load_umt5_model(folder, device=CPU)
    assert torch.equal(twice.shared.weight, tensors["shared.weight"])


def test_the_original_tensors_may_lie_in_safetensors(tmp_path, original):
    path = tmp_path / "umt5.safetensors"
    save_file(original_tensors(), path)
    one, other = (load_umt5_model(each, device=CPU).state_dict() for each in (path, original))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_config_without_sizes_is_enough(folder):
    (folder / "config.json").write_text("{}")
    assert load_umt5_model(folder, device=CPU).config.num_layers == SIZES["layers"]


def change(path, **tensors):
    """Replace tensors of an original file; None removes one."""
    found = torch.load(path) | tensors
    torch.save({name: t for name, t in found.items() if t is not None}, path)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"blocks.0.ffn.fc2.weight": None}, "no tensor 'encoder.block.0.layer.1.*wo.weight'"),
        ({"blocks.1.attn.q.weight": None}, "no tensor 'encoder.block.1.*q.weight'"),
        ({"norm.weight": None}, "no tensor 'encoder.final_layer_norm.weight'"),
        ({"token_embedding.weight": None}, "no matrix 'shared.weight'"),
        ({"token_embedding.weight": torch.ones(3)}, "no matrix 'shared.weight'"),
        ({"blocks.0.pos_embedding.embedding.weight": torch.ones(8, 5)}, "32 rows .* 5 heads"),
        ({"head.weight": torch.ones(3)}, "unknown tensor 'head.weight'"),
        ({"blocks.7.norm1.weight": torch.ones(32)}, "no tensor 'encoder.block.2.*' .and 9 more"),
        ({"blocks.1.ffn.fc1.weight": torch.ones(48, 31)}, r"'blocks.1.ffn.fc1.*\[48, 31\], exp"),
        (
            {"blocks.1.norm2.weight": torch.ones(32, dtype=torch.int8)},
            "is int8 .32., expected floats .32.",
        ),
    ],
)
def test_wrong_tensors_are_named_with_their_file(original, changes, reason):
    change(original, **changes)
    with pytest.raises(WeightsError, match=reason) as raised:
        load_umt5_model(original, device=CPU)
    assert str(raised.value).startswith(f"{original}: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"num_layers": 3}, "num_layers is 3, but the tensors have 2"),
        ({"d_kv": 64}, "d_kv is 64, but the tensors have 8"),
        ({"feed_forward_proj": "relu"}, "feed_forward_proj is 'relu', expected 'gated-gelu'"),
        ({"d_model": "wide"}, "Expected `int | null`, got `str`"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(folder, changes, reason):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))
    with pytest.raises(WeightsError, match=reason) as raised:
        load_umt5_model(folder, device=CPU)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize("damage", ["truncate", "pointer", "missing"])
def test_damaged_files_are_named(original, damage):
    content = original.read_bytes()
    original.unlink()
    if damage == "truncate":
        original.write_bytes(content[: len(content) // 2])
    elif damage == "pointer":
        original.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(WeightsError, match=str(original)):
        load_umt5_model(original, device=CPU)


def test_a_missing_shard_is_named(tmp_path):
    folder = write_diffusers(tmp_path, shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model-00002-of-00002\.safetensors: No such file"):
        load_umt5_model(folder, device=CPU)


def test_a_missing_library_names_the_extra(original, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(LingbotError, match=r"need transformers: .*\[checkpoints\]"):
        load_umt5_model(original, device=CPU)


# Prints the growth of the memory that the kernel cannot drop: a file's mapped pages do not count.
LOAD = """
import sys, threading
from pathlib import Path
import torch, transformers
from lingbot.text.umt5_weights import load_umt5_model

def anonymous_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

def watch():
    while not done.wait(0.001):
        seen.append(anonymous_bytes())

transformers.UMT5EncoderModel  # imported before the measurement
seen, done = [anonymous_bytes()], threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
model = load_umt5_model(Path(sys.argv[1]), device=torch.device("cpu"), dtype=torch.bfloat16)
seen.append(anonymous_bytes())
done.set()
watcher.join()
print(max(seen) - seen[0])
"""


@pytest.mark.parametrize("write", [write_original, write_diffusers])
def test_the_host_holds_one_copy_while_it_loads(tmp_path, write):
    sizes = {"dim": 512, "ffn": 2048, "layers": 6}
    path = write(tmp_path, **sizes)
    model_bytes = sum(2 * t.numel() for t in original_tensors(**sizes).values())
    command = [sys.executable, "-c", LOAD, str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert model_bytes > 50e6
    assert 0.9 * model_bytes < int(output) < 1.3 * model_bytes
