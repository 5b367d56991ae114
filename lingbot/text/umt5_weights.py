"""umT5's weights: the original file or a diffusers folder, as transformers' encoder."""

import re
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor, nn

from lingbot.errors import WeightsError
from lingbot.extra import import_extra
from lingbot.files import read_json, read_tensors
from lingbot.state_dict import compare, read_weights

CONFIG_FILE = "config.json"
TENSOR_FILE = "model.safetensors"  # in a diffusers folder; it may be in shards

# Parts of the original tensor names, and transformers'. The order of the two halves of the gated
# FFN is not a matter of taste: the first one goes through the GELU.
NAMES = (
    ("token_embedding.", "shared."),
    ("encoder.embed_tokens.", "shared."),  # transformers may store the tied embedding twice
    ("blocks.", "encoder.block."),
    (".attn.", ".layer.0.SelfAttention."),
    (".pos_embedding.embedding.", ".layer.0.SelfAttention.relative_attention_bias."),
    (".norm1.", ".layer.0.layer_norm."),
    (".norm2.", ".layer.1.layer_norm."),
    (".ffn.gate.0.", ".layer.1.DenseReluDense.wi_0."),
    (".ffn.fc1.", ".layer.1.DenseReluDense.wi_1."),
    (".ffn.fc2.", ".layer.1.DenseReluDense.wo."),
)
FINAL_NORM = ("norm.", "encoder.final_layer_norm.")

SHARED = "shared.weight"
TIED = "encoder.embed_tokens.weight"  # the same tensor, under its other name
ATTENTION = "encoder.block.0.layer.0.SelfAttention"
FIRST_FFN = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
BLOCK = re.compile(r"encoder\.block\.(\d+)\.")


class EncoderShape(Struct, frozen=True, kw_only=True):
    """The fields of transformers' config that the tensors give."""

    vocab_size: int
    d_model: int
    d_ff: int
    d_kv: int
    num_heads: int
    num_layers: int
    relative_attention_num_buckets: int


class EncoderConfig(Struct, frozen=True, kw_only=True):
    """The keys of a diffusers folder's config.json that the encoder depends on."""

    vocab_size: int | None = None
    d_model: int | None = None
    d_ff: int | None = None
    d_kv: int | None = None
    num_heads: int | None = None
    num_layers: int | None = None
    relative_attention_num_buckets: int | None = None
    # No shape gives these. The defaults are umT5's.
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "gated-gelu"


def load_umt5_model(
    path: Path, *, device: torch.device, dtype: torch.dtype | None = None
) -> nn.Module:
    """The encoder of an original file, or of a diffusers `text_encoder` folder.

    The original file is a `.pth`; users convert it to safetensors under the same names.

    `dtype` None keeps the file's. Files are mapped, and tensors are placed one by one, so that the
    host holds no second copy. Raises WeightsError with the file for a missing, unknown or misshapen
    tensor, or a config.json that contradicts the tensors; LingbotError without `transformers`.
    """
    transformers = import_extra("transformers")
    source, tensors, config = read_encoder(path)
    names = {to_transformers(name): name for name in tensors}
    found = {ours: tensors[name] for ours, name in names.items()}
    shape = infer_shape(found, source=source)
    compare_config(config, shape, source=source.with_name(CONFIG_FILE))
    with torch.device("meta"):
        model: nn.Module = transformers.UMT5EncoderModel(build_config(config, shape))
    expected = model.state_dict()
    del expected[TIED]
    compare(
        {names[ours]: tensor for ours, tensor in found.items()},
        {names.get(ours, ours): tensor for ours, tensor in expected.items()},
        source=source,
    )
    del tensors
    dtype = found[SHARED].dtype if dtype is None else dtype
    placed = {name: found.pop(name).to(device, dtype, copy=True) for name in names}
    model.load_state_dict(placed | {TIED: placed[SHARED]}, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def read_encoder(path: Path) -> tuple[Path, dict[str, Tensor], EncoderConfig]:
    """The file that errors name, its tensors, and the config of a diffusers folder."""
    if not path.is_dir():
        return path, read_weights(path), EncoderConfig()
    config = read_json(path / CONFIG_FILE, EncoderConfig)
    if config.feed_forward_proj != "gated-gelu":
        raise WeightsError(
            f"{path / CONFIG_FILE}: feed_forward_proj is {config.feed_forward_proj!r}, expected "
            "'gated-gelu'"
        )
    return path / TENSOR_FILE, read_tensors(path / TENSOR_FILE), config


def to_transformers(name: str) -> str:
    """Transformers' name of a tensor of either layout."""
    if name.startswith(FINAL_NORM[0]):
        return name.replace(*FINAL_NORM, 1)
    if name.startswith("encoder.block."):
        return name
    for original, ours in NAMES:
        name = name.replace(original, ours)
    return name


def infer_shape(tensors: dict[str, Tensor], *, source: Path) -> EncoderShape:
    """The encoder that has these tensors, by transformers' names. Raises WeightsError."""

    def size(name: str) -> torch.Size:
        if name not in tensors or tensors[name].ndim != 2:
            raise WeightsError(f"{source}: no matrix '{name}', expected the tensors of umT5")
        return tensors[name].shape

    vocab_size, d_model = size(SHARED)
    inner, _ = size(f"{ATTENTION}.q.weight")
    num_buckets, num_heads = size(f"{ATTENTION}.relative_attention_bias.weight")
    if not num_heads or inner % num_heads:
        raise WeightsError(f"{source}: {inner} rows of '{ATTENTION}.q.weight', {num_heads} heads")
    blocks = {found[1] for name in tensors if (found := BLOCK.match(name))}
    return EncoderShape(
        vocab_size=vocab_size,
        d_model=d_model,
        d_ff=size(FIRST_FFN)[0],
        d_kv=inner // num_heads,
        num_heads=num_heads,
        num_layers=len(blocks),
        relative_attention_num_buckets=num_buckets,
    )


def compare_config(stated: Struct, found: Struct, *, source: Path) -> None:
    """Raise WeightsError for a field of `found` that a config.json states otherwise."""
    for field in found.__struct_fields__:
        says, has = getattr(stated, field), getattr(found, field)
        if says is not None and says != has:
            raise WeightsError(f"{source}: {field} is {says}, but the tensors have {has}")


def build_config(config: EncoderConfig, shape: EncoderShape) -> Any:
    """Transformers' config of this encoder."""
    sizes = {field: getattr(shape, field) for field in EncoderShape.__struct_fields__}
    return import_extra("transformers").UMT5Config(
        **sizes,
        relative_attention_max_distance=config.relative_attention_max_distance,
        layer_norm_epsilon=config.layer_norm_epsilon,
        feed_forward_proj=config.feed_forward_proj,
        dropout_rate=0.0,
    )
