import logging
from pathlib import Path

import pytest
from msgspec.structs import replace

from lingbot.checkpoint.expected import check_shape
from lingbot.config import MODEL_1_3B, MODEL_14B, PRESETS
from lingbot.errors import WeightsError
from tests.lingbot.toy import SHAPE

FOLDER = Path("weights")


def test_the_presets_own_model_passes_in_silence(caplog):
    for preset in PRESETS.values():
        check_shape(preset.model, preset, folder=FOLDER)
    assert not caplog.records


@pytest.mark.parametrize(
    "shape, preset, has, wants",
    [
        (replace(MODEL_14B, control="act"), "v1-14b", "control act", "control cam"),
        (
            replace(MODEL_14B, num_layers=2),
            "v1-14b-act",
            "num_layers 2, control cam",
            "num_layers 40, control act",
        ),
        (
            MODEL_1_3B,
            "v2-14b",
            "dim 1536, ffn_dim 8960, num_heads 12, num_layers 30",
            "dim 5120, ffn_dim 13824, num_heads 40, num_layers 40",
        ),
    ],
)
def test_the_model_of_another_preset_is_refused_with_both_shapes(shape, preset, has, wants):
    with pytest.raises(WeightsError) as refused:
        check_shape(shape, PRESETS[preset], folder=FOLDER)
    expected = f"weights: holds a model of {has}, but preset {preset!r} has {wants}"
    assert str(refused.value) == expected


def test_a_model_of_a_size_of_its_own_is_served_and_logged_with_both_shapes(caplog):
    with caplog.at_level(logging.WARNING):
        check_shape(replace(MODEL_14B, ffn_dim=2), PRESETS["v2-14b"], folder=FOLDER)
    assert "ffn_dim 2, but preset 'v2-14b' has ffn_dim 13824" in caplog.text


@pytest.mark.parametrize(
    "changes, has, wants",
    [
        ({"num_heads": 20}, "num_heads 20", "num_heads 40"),
        ({"eps": 1e-5}, "eps 1e-05", "eps 1e-06"),
        ({"text_len": 77}, "text_len 77", "text_len 512"),
        ({"num_layers": 39}, "num_layers 39", "num_layers 40"),
        ({"freq_dim": 128, "text_dim": 8}, "freq_dim 128, text_dim 8", "freq_dim 256, text_dim"),
        ({"control": "act", "eps": 1e-5}, "eps 1e-05", "eps 1e-06"),
    ],
)
def test_a_model_of_a_published_width_is_that_model_or_refused(changes, has, wants):
    """A wrong config.json gives the heads, the epsilon or the prompt's length; a shard is gone."""
    shape = replace(MODEL_14B, **changes)
    preset = PRESETS["v1-14b-act" if shape.control == "act" else "v2-14b"]
    with pytest.raises(WeightsError) as refused:
        check_shape(shape, preset, folder=FOLDER)
    assert str(refused.value).startswith(
        f"weights: holds a model of {has}, but the published one of dim 5120, ffn_dim 13824 has "
        f"{wants}"
    )


def test_the_width_of_another_preset_does_not_hide_a_difference():
    shape = replace(MODEL_1_3B, num_heads=24)
    with pytest.raises(WeightsError, match="num_heads 24, but the published one of dim 1536, ffn"):
        check_shape(shape, PRESETS["v2-14b"], folder=FOLDER)


def test_a_pocket_world_has_to_take_hashed_words():
    pocket = PRESETS["pocket"]
    check_shape(replace(pocket.model, dim=128, num_layers=2), pocket, folder=FOLDER)
    with pytest.raises(WeightsError, match="text_dim 8, text_len 6, but preset 'pocket' has"):
        check_shape(SHAPE, pocket, folder=FOLDER)
