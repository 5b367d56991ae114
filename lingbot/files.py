"""Files of a checkpoint, read with reasons: safetensors and JSON."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lingbot.errors import WeightsError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of all the files its ``.index.json`` names."""
    index = path.with_name(path.name + ".index.json")
    try:
        if path.exists() or not index.exists():
            return load_file(path)
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        return {name: t for shard in shards for name, t in load_file(path.parent / shard).items()}
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as exc:
        raise WeightsError(f"{path}: {exc}") from exc
