"""The shape of a DiT, inferred from the names and shapes of its tensors. Imports no torch."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from lingbot.checkpoint.header import StoredTensor
from lingbot.checkpoint.official_config import CONFIG_FILE, OfficialConfig
from lingbot.config import PATCH, SPATIAL_STRIDE, ModelConfig
from lingbot.errors import WeightsError
from lingbot.files import index_of

OFFICIAL_HEAD_DIM = 128
OFFICIAL_TEXT_LEN = 512  # no tensor depends on it
CONTROL_PIXELS = SPATIAL_STRIDE**2 * PATCH**2  # pixels of a token
CONTROLS = {6 * CONTROL_PIXELS: "cam", 7 * CONTROL_PIXELS: "act"}
BLOCK = re.compile(r"blocks\.(\d+)\.")


class Fact(NamedTuple):
    """A field of the config, and the tensor that gives it."""

    value: int | str
    tensor: str


def infer_config(
    stored: Mapping[str, StoredTensor], *, path: Path, official: OfficialConfig | None
) -> ModelConfig:
    """The config of the DiT at `path`; `official` is that of the config.json beside it.

    Raises WeightsError for a tensor that is missing or has no usable shape, and for a config that
    contradicts the tensors.
    """
    official = official or OfficialConfig()
    config_file = path.parent / CONFIG_FILE
    facts = {
        "dim": common_size(stored, r"blocks\.\d+\.self_attn\.q\.bias", path=path),
        "ffn_dim": common_size(stored, r"blocks\.\d+\.ffn\.0\.bias", path=path),
        "freq_dim": size(stored, "time_embedding.0.weight", axis=1, rank=2, path=path),
        "text_dim": size(stored, "text_embedding.0.weight", axis=1, rank=2, path=path),
        "in_dim": size(stored, "patch_embedding.weight", axis=1, rank=5, path=path),
        "out_dim": count_outputs(stored, path=path),
        "num_layers": count_blocks(stored, path=path),
        "control_type": find_control(stored, path=path),
    }
    for field, (value, tensor) in facts.items():
        declared = getattr(official, field)
        if declared not in (None, value):
            raise WeightsError(
                f"{config_file}: {field} is {declared}, but it is {value} by tensor '{tensor}' "
                f"{list(stored[tensor].shape)} in {stored[tensor].file.name}"
            )
    dim = int(facts["dim"].value)
    heads = official.heads or dim // OFFICIAL_HEAD_DIM
    if official.heads is None and dim % OFFICIAL_HEAD_DIM:
        raise WeightsError(
            f"{config_file}: gives no num_heads, and dim {dim} is not divisible by "
            f"{OFFICIAL_HEAD_DIM}, the width of an official model's head"
        )
    inferred = {
        **{field: fact.value for field, fact in facts.items()},
        "control": facts["control_type"].value,
        "num_heads": heads,
        "text_len": official.text_len or OFFICIAL_TEXT_LEN,
        "eps": 1e-6 if official.eps is None else official.eps,
    }
    try:
        fields = {field: inferred[field] for field in ModelConfig.__struct_fields__}
        return msgspec.convert(fields, ModelConfig)
    except msgspec.ValidationError as exc:
        raise WeightsError(f"{config_file if official.heads else label_of(path)}: {exc}") from exc


def label_of(path: Path) -> Path:
    """The name under which errors mention the tensors of `path`: the file, its index, or folder."""
    if path.exists():
        return path
    return index_of(path) if index_of(path).exists() else path.parent


def size(
    stored: Mapping[str, StoredTensor], name: str, *, axis: int, rank: int, path: Path
) -> Fact:
    """The size of a tensor along an axis."""
    if name not in stored:
        raise_missing(name, path)
    tensor = stored[name]
    if len(tensor.shape) != rank:
        raise WeightsError(
            f"{tensor.file}: tensor '{name}' is {tensor.dtype} {list(tensor.shape)}, "
            f"expected {rank} dimensions"
        )
    return Fact(tensor.shape[axis], name)


def common_size(stored: Mapping[str, StoredTensor], pattern: str, *, path: Path) -> Fact:
    """The size that most biases of this name have: one that differs is then the wrong one."""
    matching = re.compile(pattern)
    biases = {
        name: tensor.shape[0]
        for name, tensor in sorted(stored.items())
        if len(tensor.shape) == 1 and matching.fullmatch(name)
    }
    if not biases:
        raise_missing(pattern.replace("\\d+", "0").replace("\\", ""), path)
    common, _ = Counter(biases.values()).most_common(1)[0]
    return Fact(common, next(name for name, found in biases.items() if found == common))


def count_blocks(stored: Mapping[str, StoredTensor], *, path: Path) -> Fact:
    numbers = {int(match[1]): name for name in sorted(stored) if (match := BLOCK.match(name))}
    if not numbers:
        raise_missing("blocks.0.self_attn.q.bias", path)
    last = max(numbers)
    if last >= len(stored):  # a wrong name must not build a million blocks
        tensor = stored[numbers[last]]
        raise WeightsError(f"{tensor.file}: unknown tensor '{numbers[last]}'")
    return Fact(last + 1, numbers[last])


def find_control(stored: Mapping[str, StoredTensor], *, path: Path) -> Fact:
    name = "patch_embedding_wancamctrl.weight"
    width, _ = size(stored, name, axis=1, rank=2, path=path)
    if width not in CONTROLS:
        expected = " or ".join(f"{known} ({control})" for known, control in CONTROLS.items())
        tensor = stored[name]
        raise WeightsError(
            f"{tensor.file}: tensor '{name}' is {tensor.dtype} {list(tensor.shape)}, expected a "
            f"width of {expected}"
        )
    return Fact(CONTROLS[int(width)], name)


def count_outputs(stored: Mapping[str, StoredTensor], *, path: Path) -> Fact:
    """Latent channels: the head predicts those of all latent pixels of a token."""
    rows, name = size(stored, "head.head.weight", axis=0, rank=2, path=path)
    return Fact(int(rows) // PATCH**2, name)


def raise_missing(name: str, path: Path) -> NoReturn:
    raise WeightsError(f"{label_of(path)}: no tensor '{name}'")
