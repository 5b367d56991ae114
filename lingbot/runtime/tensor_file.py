"""Arrays and one text as the bytes of a safetensors file, to read from clients, too.

Imports no torch. `lingbot/checkpoint/header.py` reads the headers of trusted files.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from lingbot.errors import LingbotError

LENGTH_BYTES = 8  # before the header: its length, little-endian
METADATA = "__metadata__"  # the one key of a header that is not a tensor
TEXT = "text"  # the one key of the metadata
MAX_TENSORS = 1024
MAX_HEADER_BYTES = 2 * 2**20  # a parser holds Python's lock, and takes 15 times as much memory
ALIGNMENT = 8  # bytes, as the safetensors library writes
# numpy has no bfloat16: its bits are kept as uint16.
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "BF16": np.dtype("<u2")}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

Count = Annotated[int, Meta(ge=0, le=2**40)]


class Entry(Struct, forbid_unknown_fields=True):
    """A tensor's entry in the header. Its offsets count from the header's end."""

    dtype: str
    shape: Annotated[tuple[Count, ...], Meta(max_length=8)]
    data_offsets: tuple[Count, Count]


def write_tensors(tensors: Mapping[str, NDArray[Any]], text: str) -> bytes:
    """Arrays of float32, or of uint16 that holds bfloat16, and a text in the metadata."""
    header: dict[str, Any] = {METADATA: {TEXT: text}}
    parts, start = [], 0
    for name, tensor in tensors.items():
        part = np.ascontiguousarray(tensor).tobytes()
        header[name] = Entry(NAMES[tensor.dtype], tensor.shape, (start, start + len(part)))
        parts.append(part)
        start += len(part)
    encoded = msgspec.json.encode(header)
    encoded += b" " * (-len(encoded) % ALIGNMENT)
    return b"".join([len(encoded).to_bytes(LENGTH_BYTES, "little"), encoded, *parts])


def read_tensors(data: bytes) -> tuple[dict[str, NDArray[Any]], str]:
    """The arrays, which are read-only views of `data`, and the text.

    Raises LingbotError for bytes that `write_tensors` cannot have written.
    """
    try:
        return _read(data)
    except (ValueError, RecursionError) as exc:  # ValueError: msgspec's, too
        raise LingbotError(f"not a whole safetensors file: {exc}") from exc


def _read(data: bytes) -> tuple[dict[str, NDArray[Any]], str]:
    start = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    if len(data) < LENGTH_BYTES or start > len(data):
        raise ValueError("the header is cut")
    if start > MAX_HEADER_BYTES:
        raise ValueError(f"the header has {start} bytes, expected at most {MAX_HEADER_BYTES}")
    header = msgspec.json.decode(data[LENGTH_BYTES:start], type=dict[str, msgspec.Raw])
    if len(header) > MAX_TENSORS:
        raise ValueError(f"{len(header)} tensors, expected at most {MAX_TENSORS}")
    metadata = msgspec.json.decode(header.pop(METADATA, msgspec.Raw(b"{}")), type=dict[str, str])
    if metadata.keys() != {TEXT}:
        raise ValueError(f"the metadata must have the key {TEXT!r} alone")
    entries = {name: msgspec.json.decode(raw, type=Entry) for name, raw in header.items()}
    tensors, end = {}, start
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        dtype, (first, last) = DTYPES.get(entry.dtype), entry.data_offsets
        if dtype is None:
            raise ValueError(f"a tensor has another type than {' or '.join(DTYPES)}")
        num_bytes = math.prod(entry.shape) * dtype.itemsize
        if start + first != end or last - first != num_bytes or start + last > len(data):
            raise ValueError("the tensors do not fill the file one after another")
        count = math.prod(entry.shape)
        tensors[name] = np.frombuffer(data, dtype, count, end).reshape(entry.shape)
        end = start + last
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes follow the last tensor")
    return tensors, metadata[TEXT]
