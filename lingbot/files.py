"""Files of a checkpoint, read with reasons: safetensors and JSON."""

import json
from pathlib import Path
from typing import TypeVar

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lingbot.errors import WeightsError

T = TypeVar("T")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of all files that its `.index.json` names.

    Raises WeightsError with the path.
    """
    index = path.with_name(path.name + ".index.json")
    try:
        if path.exists() or not index.exists():
            return load_file(path)
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        return {name: t for shard in shards for name, t in load_file(path.parent / shard).items()}
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as exc:
        raise WeightsError(f"{path}: {exc}") from exc


def read_json(path: Path, kind: type[T]) -> T:
    """A JSON file as a value of `kind`. Raises WeightsError with the path and the wrong field."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as exc:
        raise WeightsError(f"{path}: {exc}") from exc
