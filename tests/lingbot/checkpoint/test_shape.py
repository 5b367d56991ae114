"""Shapes to configs. `dit/test_names.py` has the published sizes."""

from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from lingbot.checkpoint.header import StoredTensor
from lingbot.checkpoint.official_config import OfficialConfig
from lingbot.checkpoint.shape import infer_config
from lingbot.config import ModelConfig
from lingbot.dit.model import WorldModel
from lingbot.dit.weights import to_checkpoint
from lingbot.errors import WeightsError

SHAPE = ModelConfig(
    dim=384, ffn_dim=200, freq_dim=64, num_heads=3, num_layers=4, text_dim=32, text_len=512
)
PATH = Path("folder/x.safetensors")


def stored_tensors(config=SHAPE):
    with torch.device("meta"):
        model = WorldModel(config)
    return {
        to_checkpoint(name): StoredTensor(
            file=PATH, dtype="F32", shape=tuple(tensor.shape), start=0, num_bytes=0
        )
        for name, tensor in model.state_dict().items()
    }


def infer(stored, **official):
    return infer_config(
        stored, path=PATH, official=OfficialConfig(**official) if official else None
    )


@pytest.mark.parametrize("control", ["cam", "act"])
def test_shapes_alone_give_the_config(control):
    config = replace(SHAPE, control=control)
    assert infer(stored_tensors(config)) == config


def test_a_config_gives_what_no_shape_tells():
    found = infer(stored_tensors(), num_heads=6, text_len=7, eps=1e-5)
    assert found == replace(SHAPE, num_heads=6, text_len=7, eps=1e-5)


def test_agreement_is_no_contradiction():
    stated = {"dim": 384, "ffn_dim": 200, "freq_dim": 64, "num_layers": 4, "text_dim": 32}
    assert infer(stored_tensors(), **stated, in_dim=36, out_dim=16, control_type="cam") == SHAPE


@pytest.mark.parametrize(
    "field, value, actual, tensor",
    [
        ("dim", 5120, 384, "blocks.0.self_attn.q.bias"),
        ("ffn_dim", 1, 200, "blocks.0.ffn.0.bias"),
        ("freq_dim", 256, 64, "time_embedding.0.weight"),
        ("text_dim", 4096, 32, "text_embedding.0.weight"),
        ("in_dim", 16, 36, "patch_embedding.weight"),
        ("out_dim", 48, 16, "head.head.weight"),
        ("num_layers", 40, 4, "blocks.3."),
        ("control_type", "act", "cam", "patch_embedding_wancamctrl.weight"),
        ("control_type", "none", "cam", "patch_embedding_wancamctrl.weight"),
    ],
)
def test_a_contradiction_names_both_values_and_files(field, value, actual, tensor):
    with pytest.raises(WeightsError) as raised:
        infer(stored_tensors(), **{field: value})
    text = str(raised.value)
    assert text.startswith(f"folder/config.json: {field} is {value}, but it is {actual} by tensor")
    assert f"'{tensor}" in text and text.endswith("in x.safetensors")


def test_heads_of_another_width_need_a_config():
    stored = stored_tensors(replace(SHAPE, dim=96))
    with pytest.raises(
        WeightsError, match="gives no num_heads, and dim 96 is not divisible by 128"
    ):
        infer(stored)
    assert infer(stored, num_heads=4).head_dim == 24


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(
        WeightsError, match=r"config\.json: dim 384 must be divisible by num_heads 5"
    ):
        infer(stored_tensors(), num_heads=5)


@pytest.mark.parametrize(
    "name",
    [
        "time_embedding.0.weight",
        "text_embedding.0.weight",
        "patch_embedding.weight",
        "patch_embedding_wancamctrl.weight",
        "head.head.weight",
    ],
)
def test_a_tensor_that_gives_a_size_is_named_where_it_is_missing(name):
    stored = stored_tensors()
    del stored[name]
    with pytest.raises(WeightsError, match=f"no tensor '{name}'"):
        infer(stored)


def test_a_model_without_blocks_names_the_first():
    stored = {n: t for n, t in stored_tensors().items() if not n.startswith("blocks.")}
    with pytest.raises(WeightsError, match=r"folder: no tensor 'blocks\.0\.self_attn\.q\.bias'"):
        infer(stored)


def test_one_block_of_another_size_does_not_give_the_size():
    stored = stored_tensors()
    for name in ("blocks.0.self_attn.q.bias", "blocks.0.ffn.0.bias"):
        stored[name] = replace(stored[name], shape=(7,))
    assert infer(stored) == SHAPE


def test_a_block_far_away_is_an_unknown_tensor():
    stored = stored_tensors()
    name = "blocks.999999999.ffn.0.bias"
    stored[name] = replace(stored["blocks.0.ffn.0.bias"])
    with pytest.raises(WeightsError, match=f"x.safetensors: unknown tensor '{name}'"):
        infer(stored)


def test_a_control_of_neither_width_is_named():
    stored = stored_tensors()
    name = "patch_embedding_wancamctrl.weight"
    stored[name] = replace(stored[name], shape=(384, 1600))
    with pytest.raises(
        WeightsError, match=r"\[384, 1600\], expected a width of 1536 \(cam\) or 1792"
    ):
        infer(stored)


def test_a_size_of_zero_is_refused():
    stored = stored_tensors()
    stored["time_embedding.0.weight"] = replace(stored["time_embedding.0.weight"], shape=(384, 0))
    with pytest.raises(WeightsError, match=r"folder: Expected `int` >= 1 - at `\$\.freq_dim`"):
        infer(stored)
