"""Files of a checkpoint, read with reasons: safetensors, state dicts and JSON.

A path of tensors names one file, or the shards that stand for it: those of `NAME.index.json`, or
`NAME-00001-of-00006` and so on without an index. Imports no torch by itself.
"""

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar
from zipfile import is_zipfile

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
    """True if `read_tensors` has a file to read: the whole one, an index or a numbered shard."""
    return path.is_file() or index_of(path).is_file() or bool(numbered_shards(path))


def files_of(path: Path) -> list[Path]:
    """The file `path`, or the shards that stand for it.

    Raises WeightsError for an index that cannot be read, and for a number that is missing.
    """
    if path.exists():
        return [path]
    if index_of(path).exists():
        return [path.parent / shard for shard in sorted(set(read_index(path).values()))]
    shards = numbered_shards(path)
    for file in shards.values():
        if not (file.exists() or file.is_symlink()):
            raise WeightsError(f"{file}: is missing, and other shards of its model are there")
    return list(shards.values()) or [path]


def read_index(path: Path) -> dict[str, str]:
    """The shard of each tensor, by the index of `path`. Raises WeightsError if it is damaged."""
    index = index_of(path)
    weight_map = read_json(index, ShardIndex).weight_map
    for shard in set(weight_map.values()):
        place = PurePosixPath(shard)
        if place.is_absolute() or ".." in place.parts:
            raise WeightsError(f"{index}: shard {shard!r} lies outside of the index's folder")
    return weight_map


def numbered_shards(path: Path) -> dict[int, Path]:
    """All shards that a name like `model-00002-of-00006.safetensors` promises, by number.

    Some may be missing. Raises WeightsError for names that promise different totals.
    """
    pattern = re.compile(rf"{re.escape(path.stem)}-(\d{{5}})-of-(\d{{5}}){re.escape(path.suffix)}")
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except (OSError, ValueError):  # the reader of `path` reports why its folder cannot be read
        return {}
    totals = {match[2]: name for name in names if (match := pattern.fullmatch(name))}
    if len(totals) > 1:
        first, second, *_ = sorted(totals.values())
        raise WeightsError(f"{path.with_name(first)}: is of another model than {second}")
    return {
        number: path.with_name(f"{path.stem}-{number:05}-of-{total}{path.suffix}")
        for total in totals
        for number in range(1, int(total) + 1)
    }


def read_state_dict(path: Path) -> "dict[str, Tensor]":
    """The tensors of a `.pth` file that holds a plain state dict.

    They are mapped from the file, so that memory is taken for what is read alone. Raises
    WeightsError with the damaged or missing file; no code of the file is run.
    """
    import torch  # imported late: `check_tensors` needs no torch

    refuse_other_kinds(path)
    try:
        # Only files in today's format can be mapped; older ones are no zip archives.
        mmap = is_zipfile(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as exc:  # junk makes torch raise a dozen kinds, such as struct.error
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
    """The tensors of a safetensors file, or of all its shards.

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
    files = files_of(path)
    for file in files:
        refuse_other_kinds(file)
        try:
            with safe_open(file, framework="np"):
                pass  # opening it has read the header and compared the size
        except (OSError, SafetensorError) as exc:
            raise WeightsError(f"{file}: not a whole safetensors file: {exc}") from exc
    return files


def read_json(path: Path, kind: type[T]) -> T:
    """A JSON file as a value of `kind`. Raises WeightsError with the path and the wrong field."""
    refuse_other_kinds(path)
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, ValueError, RecursionError) as exc:  # ValueError: msgspec's, or not UTF-8
        raise WeightsError(f"{path}: {exc}") from exc


def refuse_other_kinds(path: Path) -> None:
    """Raises WeightsError for what is often in a file's place, and if it cannot be opened."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise WeightsError(f"{path}: is a pipe or a device, expected a file")  # a read may hang
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except IsADirectoryError as exc:
        raise WeightsError(f"{path}: is a folder, expected a file") from exc
    except OSError as exc:
        if path.is_symlink():
            raise WeightsError(f"{path}: is a link to {path.readlink()}: {exc.strerror}") from exc
        raise WeightsError(f"{path}: {exc.strerror}") from exc
    except ValueError as exc:  # a null byte in the path
        raise WeightsError(f"{str(path)!r}: {exc}") from exc
    if not start:
        raise WeightsError(f"{path}: is empty")
    if start == LFS_POINTER:
        raise WeightsError(f"{path}: is a git-lfs pointer, not the file; `git lfs pull` fetches it")
