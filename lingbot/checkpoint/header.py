"""Headers of safetensors files: names, types, shapes and places of tensors. Imports no torch."""

from pathlib import Path

import msgspec
from msgspec import Struct

from lingbot.config import NonNegative
from lingbot.errors import WeightsError
from lingbot.files import check_tensors, index_of, read_index, refuse_other_kinds

METADATA = "__metadata__"  # the one key of a header that is not a tensor
LENGTH_BYTES = 8  # before the header: its length, little-endian
MAX_HEADER_BYTES = 100_000_000  # as the safetensors library


class StoredTensor(Struct, frozen=True, kw_only=True):
    """The place of a tensor in a file."""

    file: Path
    dtype: str  # safetensors' name: "F32", "BF16"
    shape: tuple[int, ...]
    start: int  # byte of the file
    num_bytes: int


class HeaderEntry(Struct):
    """A tensor's entry in a header. Its offsets count from the header's end."""

    dtype: str
    shape: tuple[NonNegative, ...]
    data_offsets: tuple[NonNegative, NonNegative]


def read_stored(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file or of all its shards.

    Raises WeightsError for a damaged file, a tensor in two shards, and an index that contradicts
    its shards.
    """
    stored: dict[str, StoredTensor] = {}
    for file in check_tensors(path):
        for name, tensor in read_header(file).items():
            if name in stored:
                other = stored[name].file.name
                raise WeightsError(f"{file}: tensor '{name}' is in {other}, too")
            stored[name] = tensor
    if not path.exists() and index_of(path).exists():
        for name, shard in sorted(read_index(path).items()):
            if name not in stored or stored[name].file != path.parent / shard:
                raise WeightsError(
                    f"{path.parent / shard}: no tensor '{name}', which {index_of(path).name} names"
                )
    return stored


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of one file, by its header alone: a truncated file passes.

    Raises WeightsError for a file that has no such header.
    """
    refuse_other_kinds(file)
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(LENGTH_BYTES), "little")
            header = opened.read(min(length, MAX_HEADER_BYTES))
        if length != len(header):
            raise ValueError("the header is cut")
        entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        entries.pop(METADATA, None)
        found = {name: msgspec.json.decode(raw, type=HeaderEntry) for name, raw in entries.items()}
    except OSError as exc:
        raise WeightsError(f"{file}: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:  # ValueError: msgspec's, too
        raise WeightsError(f"{file}: not a whole safetensors file: {exc}") from exc
    origin = LENGTH_BYTES + length
    return {
        name: StoredTensor(
            file=file,
            dtype=entry.dtype,
            shape=entry.shape,
            start=origin + start,
            num_bytes=end - start,
        )
        for name, entry in found.items()
        for start, end in [entry.data_offsets]
    }
