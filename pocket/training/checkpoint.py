"""Files of a run, each written completely or not at all."""

import io
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

PART_BYTES = 15_000_000  # a checkpoint's files are no larger


def save_complete(path: Path, content: dict[str, Any]) -> None:
    """Write a file of tensors and plain objects, completely or not at all."""
    unfinished = path.with_suffix(".unfinished")
    torch.save(content, unfinished)
    unfinished.rename(path)


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file, completely or not at all. Its existence marks a part as done."""
    unfinished = path.with_suffix(".unfinished")
    save_file(tensors, unfinished)
    unfinished.rename(path)


def save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint, completely or not at all, as a folder of small files."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    data = buffer.getbuffer()
    _finish_replacement(path)
    writing, written = path.with_suffix(".writing"), path.with_suffix(".written")
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir()
    for i, start in enumerate(range(0, len(data), PART_BYTES)):
        (writing / f"{i:03}").write_bytes(data[start : start + PART_BYTES])
    writing.rename(written)
    _finish_replacement(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint to the CPU. Returns None if there is none."""
    _finish_replacement(path)
    if not path.exists():
        return None
    data = b"".join(part.read_bytes() for part in sorted(path.iterdir()))
    checkpoint: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    return checkpoint


def _finish_replacement(path: Path) -> None:
    """Move a complete new checkpoint into place, also one that a killed process left."""
    written = path.with_suffix(".written")
    if written.exists():
        shutil.rmtree(path, ignore_errors=True)
        written.rename(path)
