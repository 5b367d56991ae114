"""Headers of safetensors. `test_damage.py` has files that are damaged otherwise."""

import json

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from lingbot.checkpoint.header import read_header, read_stored
from lingbot.errors import WeightsError

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.arange(5, dtype=torch.bfloat16),
    "c": torch.tensor(7.0, dtype=torch.float64),
    "none": torch.zeros(0, 3),
}


def test_places_are_those_that_the_library_reads(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    found = read_header(path)
    assert found.keys() == TENSORS.keys()
    data = path.read_bytes()
    for name, tensor in load_file(path).items():
        stored = found[name]
        assert stored.shape == tuple(tensor.shape) and stored.file == path
        raw = data[stored.start : stored.start + stored.num_bytes]
        assert raw == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    assert found["b"].dtype == "BF16"


@pytest.mark.parametrize(
    "data",
    [
        b"\x10",
        (2**60).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"null",
        (9).to_bytes(8, "little") + b'{"a": {}}',
        (7).to_bytes(8, "little") + b'{"a":3}',
        (8).to_bytes(8, "little") + b"\xff" * 8,
        save(TENSORS)[:40],
    ],
)
def test_a_file_without_a_header_gives_one_line(tmp_path, data):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError) as raised:
        read_header(path)
    assert str(raised.value).startswith(f"{path}: not a whole safetensors file: ")


def test_negative_offsets_are_refused(tmp_path):
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}
    header = json.dumps({"a": entry}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(WeightsError, match="Expected `int` >= 0"):
        read_header(path)


def test_tensors_of_shards_name_their_shard(tmp_path):
    for number, name in enumerate(TENSORS, 1):
        save_file({name: TENSORS[name]}, tmp_path / f"x-0000{number}-of-00004.safetensors")
    stored = read_stored(tmp_path / "x.safetensors")
    assert {n: t.file.name[2:7] for n, t in stored.items()} == {
        "a": "00001", "b": "00002", "c": "00003", "none": "00004"
    }  # fmt: skip
