"""The files below a folder that may be parts of a checkpoint, and the part that each one is.

Names of tensors give the part. Weights are not read. Imports no torch.
Tested in `tests/lingbot/checkpoint/test_layout.py`.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from lingbot.checkpoint.header import read_header
from lingbot.checkpoint.pickled_names import state_dict_names
from lingbot.errors import WeightsError
from lingbot.files import index_of, numbered_shards, read_index, read_json

Kind = Literal["dit", "vae", "tiny_vae", "text_encoder", "tokenizer"]

MAX_DEPTH = 3  # folders: `google/umt5-xxl` has two
MAX_ENTRIES = 20_000
TENSORS = ".safetensors"
INDEX = f"{TENSORS}.index.json"
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.safetensors")
TOKENIZER_FILE = "tokenizer.json"

PTH = ".pth"


class Sign(NamedTuple):
    """A name that only one part has."""

    kind: Kind
    name: re.Pattern[str]
    suffixes: tuple[str, ...]  # its loader reads no other files
    is_folder: bool = False  # the loader takes the folder, with the library's config.json


SIGNS = (
    Sign(
        "dit",
        re.compile(r"blocks\.\d+\.(self_attn\.q|cam_injector_layer1|attn1\.to_q)\.weight"),
        (TENSORS,),
    ),
    Sign("vae", re.compile(r"decoder\.conv1\.weight"), (PTH, TENSORS)),
    Sign("vae", re.compile(r"decoder\.conv_in\.weight"), (TENSORS,), is_folder=True),
    Sign("tiny_vae", re.compile(r"decoder\.\d+\.weight"), (PTH, TENSORS)),
    Sign("text_encoder", re.compile(r"blocks\.\d+\.attn\.q\.weight"), (PTH, TENSORS)),
    Sign(
        "text_encoder",
        re.compile(r"encoder\.block\.\d+\.layer\.0\.SelfAttention\.q\.weight"),
        (TENSORS,),
        is_folder=True,
    ),
)


class Tokenizer(msgspec.Struct):
    """The one key that every tokenizer.json has."""

    model: msgspec.Raw


class FoundPart(NamedTuple):
    """A part: the path that its loader takes, and that of its tensors, which may be inside."""

    path: Path
    tensors: Path


@dataclass(slots=True)
class Scan:
    """The parts below a folder, and the errors of files that cannot be read."""

    folder: Path
    found: dict[Kind, list[FoundPart]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


def scan(folder: Path) -> Scan:
    """Raises WeightsError for a folder that cannot be listed, or that holds too many files."""
    result = Scan(folder)
    for path in candidates(folder):
        try:
            kind, place = identify(path)
        except WeightsError as exc:
            result.unreadable.append(str(exc))
            continue
        if kind is not None:
            result.found.setdefault(kind, []).append(FoundPart(place, path))
    return result


def candidates(folder: Path) -> Iterator[Path]:
    """Files of tensors, and tokenizers. Shards give the one path that stands for them."""
    level, num_entries = [folder], 0
    searched: set[Path] = set()  # links may lead to a folder again
    for depth in range(MAX_DEPTH + 1):
        below: list[Path] = []
        for place in level:
            try:
                entries = list_folder(place)
            except WeightsError:
                if depth:
                    continue  # a folder of somebody else's, like lost+found
                raise
            if (real := place.resolve()) in searched:
                continue
            searched.add(real)
            num_entries += len(entries)
            if num_entries > MAX_ENTRIES:
                raise WeightsError(f"{folder}: holds over {MAX_ENTRIES} files, so is no checkpoint")
            yield from tensor_paths(entries)
            yield from (path for path in entries if is_other_part(path))
            below += [path for path in entries if is_searched(path)]
        level = below


def list_folder(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as exc:
        raise WeightsError(f"{folder}: {exc.strerror}") from exc
    except ValueError as exc:  # a null byte in the path
        raise WeightsError(f"{str(folder)!r}: {exc}") from exc


def is_other_part(path: Path) -> bool:
    return path.suffix == PTH or path.name == TOKENIZER_FILE


def is_searched(path: Path) -> bool:
    """True for a folder. Tools keep their own files in hidden ones: `.git`, `.cache`."""
    is_part = path.suffix == TENSORS or is_other_part(path)
    return not path.name.startswith(".") and not is_part and path.is_dir()


def tensor_paths(entries: list[Path]) -> list[Path]:
    """The files of tensors in one folder, each whole or in shards.

    An index may have another name than its shards.
    """
    indexes = [path for path in entries if path.name.endswith(INDEX)]
    paths = {path.with_name(path.name.removesuffix(".index.json")) for path in indexes}
    indexed: set[Path] = set()
    for whole in paths:
        with suppress(WeightsError):  # reported where the path is read
            indexed |= {whole.parent / shard for shard in read_index(whole).values()}
    for path in entries:
        if path.suffix == TENSORS and path not in indexed:
            match = SHARD.fullmatch(path.name)
            paths.add(path.with_name(match[1] + TENSORS) if match else path)
    return sorted(paths)


def identify(path: Path) -> tuple[Kind | None, Path]:
    """The part that a file is, None if it is none, and the path that the part's loader takes.

    Raises WeightsError for a file without names.
    """
    if path.name == TOKENIZER_FILE:
        read_json(path, Tokenizer)
        return "tokenizer", path
    suffix = TENSORS if path.suffix == TENSORS else PTH  # any other ending: PyTorch's, as `.pt`
    names = tensor_names(path) if suffix == TENSORS else state_dict_names(path)
    for sign in SIGNS:
        if suffix in sign.suffixes and any(sign.name.fullmatch(name) for name in names):
            return sign.kind, path.parent if sign.is_folder else path
    return None, path


def tensor_names(path: Path) -> set[str]:
    """The names by the index, or else by all headers that can be read.

    A part with damage is found, so that its own reader names the damage.
    """
    reasons: list[WeightsError] = []
    if not path.exists() and index_of(path).exists():
        try:
            return set(read_index(path))
        except WeightsError as exc:
            reasons.append(exc)
    names: set[str] = set()
    shards = [] if path.exists() else list(numbered_shards(path).values())
    for file in shards or [path]:
        try:
            names |= read_header(file).keys()
        except WeightsError as exc:
            reasons.append(exc)
    if reasons and not names:
        raise reasons[0]
    return names
