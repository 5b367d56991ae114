"""The tensors of the published models, on `meta`: no memory, so every size is the real one.

The expected names and shapes are those of the published checkpoints, written as formulas.
"""

import pytest
import torch
from msgspec.structs import replace

from lingbot.checkpoint.header import StoredTensor
from lingbot.checkpoint.shape import infer_config
from lingbot.config import ModelConfig
from lingbot.dit.model import WorldModel
from lingbot.dit.weights import to_checkpoint, to_internal

UMT5 = {"freq_dim": 256, "text_dim": 4096, "text_len": 512}
SIZES = {
    "14b": ModelConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, **UMT5),
    "1.3b": ModelConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, **UMT5),
}
NUM_TENSORS = {"14b": 1421, "1.3b": 1071}


def linear(name, rows, columns):
    return {f"{name}.weight": [rows, columns], f"{name}.bias": [rows]}


def published(dim, ffn, num_blocks, *, control):
    """Official names and shapes: 21 tensors of the model, and 35 of each block."""
    width = {"cam": 1536, "act": 1792}[control]
    expected = {
        "patch_embedding.weight": [dim, 36, 1, 2, 2],
        "patch_embedding.bias": [dim],
        "head.modulation": [1, 2, dim],
        **linear("head.head", 64, dim),
        **linear("patch_embedding_wancamctrl", dim, width),
        **linear("c2ws_hidden_states_layer1", dim, dim),
        **linear("c2ws_hidden_states_layer2", dim, dim),
        **linear("text_embedding.0", dim, 4096),
        **linear("text_embedding.2", dim, dim),
        **linear("time_embedding.0", dim, 256),
        **linear("time_embedding.2", dim, dim),
        **linear("time_projection.1", 6 * dim, dim),
    }
    assert len(expected) == 21
    for block in (f"blocks.{number}" for number in range(num_blocks)):
        expected |= {
            f"{block}.modulation": [1, 6, dim],
            f"{block}.norm3.weight": [dim],
            f"{block}.norm3.bias": [dim],
            **linear(f"{block}.ffn.0", ffn, dim),
            **linear(f"{block}.ffn.2", dim, ffn),
        }
        for attention in ("self_attn", "cross_attn"):
            for layer in "qkvo":
                expected |= linear(f"{block}.{attention}.{layer}", dim, dim)
            for norm in ("norm_q", "norm_k"):
                expected[f"{block}.{attention}.{norm}.weight"] = [dim]
        for layer in ("cam_injector_layer1", "cam_injector_layer2", "cam_scale_layer"):
            expected |= linear(f"{block}.{layer}", dim, dim)
        expected |= linear(f"{block}.cam_shift_layer", dim, dim)
    assert len(expected) == 21 + 35 * num_blocks
    return expected


@pytest.fixture(scope="module", params=["cam", "act"])
def control(request):
    return request.param


@pytest.fixture(scope="module", params=list(SIZES))
def config(request, control):
    return replace(SIZES[request.param], control=control)


@pytest.fixture(scope="module")
def expected(config):
    return published(config.dim, config.ffn_dim, config.num_layers, control=config.control)


def test_every_name_and_shape_is_the_published_one(config, expected):
    with torch.device("meta"):
        state = WorldModel(config).state_dict()
    assert {to_checkpoint(name): list(tensor.shape) for name, tensor in state.items()} == expected
    assert len(expected) == NUM_TENSORS["14b" if config.dim == 5120 else "1.3b"]


def test_names_return_from_the_models_own(expected):
    assert [to_checkpoint(to_internal(name)) for name in expected] == list(expected)


def test_the_published_shapes_give_the_published_config(tmp_path, config, expected):
    """No config.json is needed: heads are 128 wide, and prompts have 512 tokens."""
    path = tmp_path / "model.safetensors"
    stored = {
        n: StoredTensor(file=path, dtype="F32", shape=tuple(shape), start=0, num_bytes=0)
        for n, shape in expected.items()
    }
    assert infer_config(stored, path=path, official=None) == config


def test_the_published_sizes_are_those_of_float32_files():
    """74.2 GB and 6.84 GB."""
    for size, gigabytes in (("14b", 74.2), ("1.3b", 6.84)):
        config = SIZES[size]
        shapes = published(config.dim, config.ffn_dim, config.num_layers, control="cam").values()
        num_bytes = sum(4 * torch.Size(shape).numel() for shape in shapes)
        assert num_bytes / 1e9 == pytest.approx(gigabytes, abs=0.05)
