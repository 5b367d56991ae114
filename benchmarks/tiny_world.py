"""A pocket world that costs little: a tiny DiT of random weights, and small frames."""

import shutil
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace

from lingbot.config import PRESETS
from lingbot.dit.model import WorldModel
from lingbot.dit.weights import save_dit

POCKET = PRESETS["pocket"]
MODEL = replace(POCKET.model, dim=48, ffn_dim=64, freq_dim=16, num_layers=1)


def write_tiny_world(folder: Path, *, size: str = "80x48") -> dict[str, Any]:
    """Writes a checkpoint into a folder. Returns the `args` that serve it on one thread."""
    torch.manual_seed(0)
    save_dit(WorldModel(MODEL).eval(), folder)
    assert POCKET.folder is not None
    shutil.copy(POCKET.folder / POCKET.vae_file, folder)
    return {"weights": str(folder), "sizes": [size], "dtype": "float32", "threads": 1}
