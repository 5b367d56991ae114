import json

import pytest

from lingbot.checkpoint.official_config import is_causal, read_official_config
from lingbot.errors import WeightsError


def write(folder, config):
    (folder / "config.json").write_text(json.dumps(config))


def test_a_folder_without_a_config_gives_none(tmp_path):
    assert read_official_config(tmp_path) is None
    assert is_causal(tmp_path) is None


@pytest.mark.parametrize("config", [{}, {"_class_name": "Pipeline", "scheduler": ["a", "b"]}])
def test_a_config_of_something_else_gives_none(tmp_path, config):
    write(tmp_path, config)
    assert read_official_config(tmp_path) is None


def test_the_heads_have_two_names(tmp_path):
    write(tmp_path, {"num_heads": 12})
    assert read_official_config(tmp_path).heads == 12
    write(tmp_path, {"num_attention_heads": 40})
    assert read_official_config(tmp_path).heads == 40


@pytest.mark.parametrize(
    "config, causal",
    [
        ({"_class_name": "WanModelFast"}, True),
        ({"_class_name": "CausalLingBotWorldTransformer3DModel"}, True),
        ({"_class_name": "WanModel"}, False),
        ({"_class_name": "WanModel", "local_attn_size": 18, "sink_size": 6}, True),
        ({"sink_size": 0}, True),
        ({"dim": 5120}, None),
        ({"_class_name": None}, None),
    ],
)
def test_a_config_tells_whether_the_model_is_causal(tmp_path, config, causal):
    write(tmp_path, config)
    assert is_causal(tmp_path) is causal


@pytest.mark.parametrize(
    "config, reason",
    [
        ([], "Expected `object`, got `array`"),
        ({"dim": "5120"}, "Expected `int | null`, got `str` - at `$.dim`"),
        ({"dim": 5120, "num_heads": 0}, "Expected `int` >= 1 - at `$.num_heads`"),
        ({"dim": 5120, "eps": "small"}, "`$.eps`"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, config, reason):
    write(tmp_path, config)
    with pytest.raises(WeightsError) as raised:
        read_official_config(tmp_path)
    text = str(raised.value)
    assert text.startswith(f"{tmp_path / 'config.json'}: ") and reason in text


def test_a_dangling_link_is_no_absent_config(tmp_path):
    (tmp_path / "config.json").symlink_to(tmp_path / "blob")
    with pytest.raises(WeightsError, match=r"config\.json: is a link to .*blob: No such file"):
        read_official_config(tmp_path)
