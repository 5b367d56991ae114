"""Files of a checkpoint, read with reasons: safetensors, state dicts and JSON.

Imports no torch by itself.
"""

from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import Struct
from safetensors import SafetensorError, safe_open

from lingbot.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

LFS_POINTER = b"version https://git-lfs"  # how git leaves a large file that it did not fetch


class ShardIndex(Struct):
    """An `.index.json`: the file of each tensor, relative to the index."""

    weight_map: dict[str, str]


def index_of(path: Path) -> Path:
    """The path of the index of a safetensors file that is in shards."""
    return path.with_name(path.name + ".index.json")


def tensors_exist(path: Path) -> bool:
    """True if `read_tensors` has a file to read: the whole one or an index."""
    return path.is_file() or index_of(path).is_file()


def read_state_dict(path: Path) -> "dict[str, Tensor]":
    """The tensors of a `.pth` file that holds a plain state dict.

    They are mapped from the file, so that memory is taken for what is read alone. Raises
    WeightsError with the damaged or missing file; no code of the file is run.
    """
    import torch  # imported late: `check_tensors` needs no torch

    _refuse_other_kinds(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as exc:
        raise WeightsError(f"{path}: not a whole PyTorch file of tensors") from exc
    is_state_dict = isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items()
    )
    if not is_state_dict or not found:
        raise WeightsError(
            f"{path}: is a {type(found).__name__}, expected a map of tensors by name"
        )
    return dict(found)


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors file, or of all files that its `.index.json` names.

    Raises WeightsError with the damaged or missing file.
    """
    from safetensors.torch import load_file  # imported late: `check_tensors` needs no torch

    tensors: dict[str, Tensor] = {}
    for file in check_tensors(path):
        try:
            tensors |= load_file(file)
        except (OSError, SafetensorError) as exc:
            raise WeightsError(f"{file}: {exc}") from exc
    return tensors


def check_tensors(path: Path) -> list[Path]:
    """The files that `read_tensors` reads. Reads their headers alone.

    Raises WeightsError with the file that is missing, truncated or of another kind.
    """
    files = [path]
    if not path.exists() and index_of(path).exists():
        shards = set(read_json(index_of(path), ShardIndex).weight_map.values())
        files = [path.parent / shard for shard in sorted(shards)]
    for file in files:
        _refuse_other_kinds(file)
        try:
            with safe_open(file, framework="np"):
                pass  # opening it has read the header and compared the size
        except (OSError, SafetensorError) as exc:
            raise WeightsError(f"{file}: not a whole safetensors file: {exc}") from exc
    return files


def read_json(path: Path, kind: type[T]) -> T:
    """A JSON file as a value of `kind`. Raises WeightsError with the path and the wrong field."""
    _refuse_other_kinds(path)
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, ValueError, RecursionError) as exc:  # ValueError: msgspec's, or not UTF-8
        raise WeightsError(f"{path}: {exc}") from exc


def _refuse_other_kinds(path: Path) -> None:
    """Raises WeightsError for what is often in a file's place, and if it cannot be opened."""
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except IsADirectoryError as exc:
        raise WeightsError(f"{path}: is a folder, expected a file") from exc
    except OSError as exc:
        raise WeightsError(f"{path}: {exc.strerror}") from exc
    except ValueError as exc:  # a null byte in the path
        raise WeightsError(f"{str(path)!r}: {exc}") from exc
    if not start:
        raise WeightsError(f"{path}: is empty")
    if start == LFS_POINTER:
        raise WeightsError(f"{path}: is a git-lfs pointer, not the file; `git lfs pull` fetches it")
