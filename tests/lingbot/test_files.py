"""Files with reasons. `dit/test_weights.py` and `test_verify.py` cover tensors in shards."""

import io
import json
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save

from lingbot.errors import WeightsError
from lingbot.files import check_tensors, read_json, read_state_dict, read_tensors, tensors_exist
from tests.waiting import TIMEOUT_S

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n"
WHOLE = save({"weight": torch.arange(100.0)})


class Shape(msgspec.Struct):
    dim: int


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "config.json"])
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    read = {".pth": read_state_dict, ".json": lambda path: read_json(path, Shape)}
    with pytest.raises(WeightsError, match=f"{name}: is a pipe or a device, expected a file"):
        read.get((tmp_path / name).suffix, read_tensors)(tmp_path / name)


def test_json_is_read_as_its_type(tmp_path):
    (tmp_path / "config.json").write_text('{"dim": 3, "unknown": 4}')
    assert read_json(tmp_path / "config.json", Shape) == Shape(3)


@pytest.mark.parametrize(
    "text, reason", [(None, "No such file"), ("{", "truncated"), ('{"dim": "3"}', "dim")]
)
def test_unreadable_json_names_file_and_reason(tmp_path, text, reason):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsError, match=rf"config\.json.*{reason}"):
        read_json(tmp_path / "config.json", Shape)


@pytest.mark.parametrize("read", [read_tensors, check_tensors])
@pytest.mark.parametrize(
    "data, reason",
    [
        (None, "No such file"),
        (POINTER, "is a git-lfs pointer"),
        (b"", "is empty"),
        (WHOLE[:20], "not a whole safetensors file"),
        (WHOLE[:-1], "not a whole safetensors file"),
        (b"<!DOCTYPE html><html>not found</html>", "not a whole safetensors file"),
        (b"PK\x03\x04" + bytes(200), "not a whole safetensors file"),
    ],
)
@pytest.mark.parametrize("in_shards", [False, True])
def test_a_damaged_file_is_named_and_described_in_one_line(tmp_path, read, data, reason, in_shards):
    name = "part-1.safetensors" if in_shards else "model.safetensors"
    if in_shards:
        weight_map = {"weight": "part-0.safetensors", "bias": "part-1.safetensors"}
        index = {"metadata": {}, "weight_map": weight_map}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        (tmp_path / "part-0.safetensors").write_bytes(WHOLE)
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(WeightsError) as raised:
        read(tmp_path / "model.safetensors")
    text = str(raised.value)
    assert text.startswith(f"{tmp_path / name}: ") and reason in text and "\n" not in text


@pytest.mark.parametrize(
    "index, reason",
    [
        (b"{}", "weight_map"),
        (b"[]", "got `array`"),
        (b"null", "got `null`"),
        (b'{"weight_map": ["a.safetensors"]}', "weight_map"),
        (b'{"weight_map": {"weight": 3}}', "weight_map"),
        (b"", "is empty"),
        (b"\xff\xfe", "malformed"),
        (POINTER, "is a git-lfs pointer"),
    ],
)
def test_a_damaged_index_is_named_and_described_in_one_line(tmp_path, index, reason):
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(index)
    with pytest.raises(WeightsError) as raised:
        read_tensors(tmp_path / "model.safetensors")
    text = str(raised.value)
    assert text.startswith(f"{path}: ") and reason in text and "\n" not in text


def test_whole_shards_are_read_and_checked(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(save({name: torch.ones(2)}))
    weight_map = {"a": "a.safetensors", "b": "b.safetensors"}
    index = json.dumps({"weight_map": weight_map})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert read_tensors(tmp_path / "model.safetensors").keys() == {"a", "b"}
    assert [file.name for file in check_tensors(tmp_path / "model.safetensors")] == [
        "a.safetensors",
        "b.safetensors",
    ]


def write_numbered(folder, numbers, *, total=3):
    for number in numbers:
        path = folder / f"model-{number:05}-of-{total:05}.safetensors"
        path.write_bytes(save({f"tensor {number}": torch.ones(number)}))


def test_numbered_shards_are_read_without_an_index(tmp_path):
    write_numbered(tmp_path, (1, 2, 3))
    path = tmp_path / "model.safetensors"
    assert tensors_exist(path) and not tensors_exist(tmp_path / "mode.safetensors")
    assert {name: len(tensor) for name, tensor in read_tensors(path).items()} == {
        "tensor 1": 1,
        "tensor 2": 2,
        "tensor 3": 3,
    }


def test_a_missing_number_is_named(tmp_path):
    write_numbered(tmp_path, (1, 3))
    with pytest.raises(WeightsError, match=r"model-00002-of-00003\.safetensors: is missing, and"):
        check_tensors(tmp_path / "model.safetensors")


def test_numbers_of_two_models_are_named(tmp_path):
    write_numbered(tmp_path, (1, 2))
    write_numbered(tmp_path, (3,), total=4)
    with pytest.raises(WeightsError, match=r"-of-00003.*is of another model than .*of-00004"):
        tensors_exist(tmp_path / "model.safetensors")


@pytest.mark.parametrize("shard", ["../a.safetensors", "x/../../a", "/a.safetensors"])
def test_an_index_reaches_no_other_folder(tmp_path, shard):
    (tmp_path / "a.safetensors").write_bytes(WHOLE)
    folder = tmp_path / "folder"
    folder.mkdir()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"weight": shard}}))
    with pytest.raises(WeightsError, match="lies outside of the index's folder"):
        read_tensors(folder / "model.safetensors")


def test_a_dangling_link_is_named_with_its_target(tmp_path):
    (tmp_path / "model.safetensors").symlink_to("../blobs/4d7a")
    reason = r"model\.safetensors: is a link to \.\./blobs/4d7a: No such file"
    for read in (read_tensors, read_state_dict, check_tensors):
        with pytest.raises(WeightsError, match=reason):
            read(tmp_path / "model.safetensors")


def test_a_directory_is_no_file(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(WeightsError, match=r"model\.safetensors: is a folder"):
        read_tensors(tmp_path / "model.safetensors")


def test_a_check_imports_no_torch():
    code = "import sys, lingbot.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=TIMEOUT_S).returncode == 0


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_a_state_dict_is_read(tmp_path):
    (tmp_path / "vae.pth").write_bytes(saved(OrderedDict(weight=torch.arange(3.0))))
    assert read_state_dict(tmp_path / "vae.pth")["weight"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "data, reason",
    [
        (None, "No such file"),
        (POINTER, "is a git-lfs pointer"),
        (b"", "is empty"),
        (saved({"weight": torch.ones(100)})[:-80], "not a whole PyTorch file"),
        (b"<!DOCTYPE html><html>not found</html>", "not a whole PyTorch file"),
        (saved(Path("no tensor")), "not a whole PyTorch file"),
        (saved({"weight": 3}), "is a dict, expected a map of tensors"),
        (saved({}), "is a dict, expected a map of tensors"),
        (saved(torch.ones(2)), "is a Tensor, expected a map of tensors"),
    ],
)
def test_a_damaged_state_dict_is_named_and_described_in_one_line(tmp_path, data, reason):
    path = tmp_path / "vae.pth"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(WeightsError) as raised:
        read_state_dict(path)
    text = str(raised.value)
    assert text.startswith(f"{path}: ") and reason in text and "\n" not in text
