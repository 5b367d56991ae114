"""A forward pass of the umT5 encoder, rerun from its token ids.

Tested in `tests/lingbot/test_verify_text.py`.
"""

from pathlib import Path
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor

from lingbot.errors import WeightsError
from lingbot.files import read_json, read_tensors
from lingbot.parallel.ulysses import SequenceParallelGroup
from lingbot.text.umt5 import encode_ids
from lingbot.text.umt5_weights import compare_config, load_umt5_model
from lingbot.verify.recorded import Errors, read_recorded, relative_error

T5_FILES = "models_t5_*.pth"
FORWARD_FILE = "forward.safetensors"
CONFIG_FILE = "config.json"


class OriginalConfig(Struct, frozen=True, kw_only=True):
    """The original names of the encoder's sizes. The tensors give them, too."""

    vocab_size: int | None = None
    dim: int | None = None
    dim_attn: int | None = None
    dim_ffn: int | None = None
    num_heads: int | None = None
    num_layers: int | None = None
    num_buckets: int | None = None


def verify_t5(folder: Path, group: SequenceParallelGroup) -> Errors:
    """Encode each recorded prompt without its padding, as the server does.

    Raises WeightsError for files that do not fit together.
    """
    path = folder / FORWARD_FILE
    prompts = read_prompts(path)
    recorded = read_recorded(path, {}, {"out": "B L D"})["out"]
    model = load_umt5_model(find_weights(folder), device=torch.device("cpu"), dtype=torch.float32)
    rows, width = model.get_parameter("shared.weight").shape
    check_config(folder / CONFIG_FILE, model.config)
    if max(map(max, prompts)) >= rows:
        raise WeightsError(f"{path}: 'ids' has {max(map(max, prompts))}, expected 0 to {rows - 1}")
    num_prompts, num_tokens, out_width = recorded.shape
    longest = max(map(len, prompts))
    if num_prompts != len(prompts) or num_tokens < longest or out_width != width:
        raise WeightsError(
            f"{path}: 'out' is {list(recorded.shape)}, expected {len(prompts)} prompts of at least "
            f"{longest} tokens, {width} wide"
        )
    ours = [encode_ids(model, ids) for ids in prompts]
    reference = [out[: len(ids)] for ids, out in zip(prompts, recorded, strict=True)]
    yield "out", relative_error(torch.cat(ours), torch.cat(reference))


def find_weights(folder: Path) -> Path:
    """Raises WeightsError for more than one file of weights."""
    first, *more = sorted(path for path in folder.glob(T5_FILES) if path.is_file())
    if more:
        raise WeightsError(f"{folder}: {first.name} and {more[0].name}, expected one {T5_FILES}")
    return first


def read_prompts(path: Path) -> list[list[int]]:
    """The token ids of each prompt, [B, L], cut where its mask ends. Raises WeightsError."""
    recorded = read_tensors(path)
    for name in ("ids", "mask"):
        if name not in recorded:
            raise WeightsError(f"{path}: no tensor '{name}'")
        tensor = recorded[name]
        if tensor.is_floating_point() or tensor.ndim != 2 or not tensor.numel():
            found = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
            raise WeightsError(f"{path}: '{name}' is {found}, expected whole numbers [B L]")
    ids, mask = recorded["ids"].long(), recorded["mask"].long()
    if ids.shape != mask.shape or ids.min() < 0:
        raise WeightsError(f"{path}: 'ids' and 'mask' must have one shape, and no id below 0")
    lengths = mask.sum(dim=1)
    if not lengths.all() or not torch.equal(mask, prefixes(lengths, mask.shape[1])):
        raise WeightsError(f"{path}: each row of 'mask' must be ones, at least one, then zeros")
    return [row[:length].tolist() for row, length in zip(ids, lengths.tolist(), strict=True)]


def prefixes(lengths: Tensor, width: int) -> Tensor:
    """Rows of `lengths` ones, filled with zeros: [B] -> [B, width]."""
    return (torch.arange(width) < lengths[:, None]).long()


def check_config(path: Path, sizes: Any) -> None:
    """Raise WeightsError for a config.json that contradicts the tensors; there may be none.

    `sizes` is transformers' config of the encoder.
    """
    if not path.exists():
        return
    found = OriginalConfig(
        vocab_size=sizes.vocab_size,
        dim=sizes.d_model,
        dim_attn=sizes.d_kv * sizes.num_heads,
        dim_ffn=sizes.d_ff,
        num_heads=sizes.num_heads,
        num_layers=sizes.num_layers,
        num_buckets=sizes.relative_attention_num_buckets,
    )
    compare_config(read_json(path, OriginalConfig), found, source=path)
