import pytest

from lingbot.config import ModelConfig, ScheduleConfig, WorldConfig


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: ScheduleConfig(indices=(0, 5, 5), shift=1.0), "must rise"),
        (lambda: ScheduleConfig(indices=(0, 1000), shift=1.0), "must rise"),
        (
            lambda: WorldConfig(
                name="x", width=50, height=32, schedule=ScheduleConfig(indices=(0,), shift=5.0)
            ),
            "multiple of 16",
        ),
        (
            lambda: ModelConfig(
                dim=10, ffn_dim=1, freq_dim=2, num_heads=3, num_layers=1, text_dim=1, text_len=1
            ),
            "divisible",
        ),
    ],
)
def test_an_impossible_config_is_refused(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()
