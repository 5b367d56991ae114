import json

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch

from lingbot.errors import LingbotError
from lingbot.runtime.tensor_file import MAX_HEADER_BYTES, read_tensors, write_tensors

FLOATS = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7
BITS = torch.from_numpy(FLOATS).bfloat16().view(torch.uint16).numpy()
TENSORS = {"b": FLOATS, "a": BITS, "none": FLOATS[:0]}


def test_the_safetensors_library_reads_what_is_written(tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(write_tensors(TENSORS, "a text: ä"))
    with safetensors.safe_open(path, framework="pt") as opened:
        assert opened.metadata() == {"text": "a text: ä"}
        assert opened.keys() == sorted(TENSORS)
        assert np.array_equal(opened.get_tensor("b").numpy(), FLOATS)
        assert np.array_equal(opened.get_tensor("a").view(torch.uint16).numpy(), BITS)


def test_what_the_library_writes_is_read():
    data = safetensors.numpy.save({"x": FLOATS, "y": FLOATS[0]}, metadata={"text": "t"})
    tensors, text = read_tensors(data)
    assert text == "t" and np.array_equal(tensors["x"], FLOATS)
    assert np.array_equal(tensors["y"], FLOATS[0])


def test_what_is_written_is_read_without_a_copy():
    data = write_tensors(TENSORS, "")
    tensors, _ = read_tensors(data)
    for name, tensor in TENSORS.items():
        read = tensors[name]
        assert read.dtype == tensor.dtype and np.array_equal(read, tensor)
        assert not read.flags.owndata and not read.flags.writeable


def file_of(header, body=b""):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + body


META = {"__metadata__": {"text": ""}}


def entry(dtype="F32", shape=(1,), offsets=(0, 4), **more):
    return {**META, "x": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}}


WRONG = {
    "nothing": b"",
    "no header": b"\0" * 7,
    "a cut header": (2**63).to_bytes(8, "little") + b"{}",
    "no json": file_of(b"{"),
    "no text": file_of({}),
    "other metadata": file_of({"__metadata__": {"text": "", "file": "/etc/passwd"}}),
    "nested": file_of(b"[" * 100_000),
    "a deep value": file_of(b'{"x":' * 20_000 + b"1" + b"}" * 20_000),
    "another type": file_of(entry("F64", offsets=(0, 8)), b"\0" * 8),
    "an unknown field": file_of(entry(file="x"), b"\0" * 4),
    "a shape that is too large": file_of(entry(shape=(2**40, 2**40)), b"\0" * 4),
    "many dimensions": file_of(entry(shape=(1,) * 9), b"\0" * 4),
    "a negative shape": file_of(entry(shape=(-1,)), b"\0" * 4),
    "a hole": file_of(entry(offsets=(4, 8)), b"\0" * 8),
    "a missing end": file_of(entry(), b"\0" * 3),
    "bytes that belong to none": file_of(entry(), b"\0" * 5),
    "an overlap": file_of({**entry(), "y": entry()["x"]}, b"\0" * 4),
    "a turned range": file_of(entry(offsets=(4, 0)), b"\0" * 4),
    "many tensors": file_of(META | {str(i): entry(shape=(0,), offsets=(0, 0))["x"]
                                    for i in range(1025)}),
    "no utf-8": file_of(b'{"__metadata__":{"text":"\xff"}}'),
    "a lone surrogate": file_of(b'{"__metadata__":{"text":"\\ud800"}}'),
}  # fmt: skip


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG.keys())
def test_other_bytes_are_refused(data):
    with pytest.raises(LingbotError, match="not a whole safetensors file"):
        read_tensors(data)


def test_a_long_header_is_not_parsed():
    data = write_tensors({}, "x" * MAX_HEADER_BYTES)
    with pytest.raises(LingbotError, match="the header has"):
        read_tensors(data)
