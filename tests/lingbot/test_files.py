"""JSON with reasons. `dit/test_weights.py` covers safetensors, whole and in shards."""

import msgspec
import pytest

from lingbot.errors import WeightsError
from lingbot.files import read_json, read_tensors


class Shape(msgspec.Struct):
    dim: int


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


def test_an_index_without_a_map_names_the_file(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"model\.safetensors.*weight_map"):
        read_tensors(tmp_path / "model.safetensors")
