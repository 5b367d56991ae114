"""The evaluation's parts that take seconds, on the shipped weights."""

import math

import pytest

from tests.pocket.conftest import require_cv2

require_cv2()

from lingbot.runtime.presets import load_engine
from pocket.evaluate import PARTS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def engine():
    return load_engine("pocket")


@pytest.mark.parametrize("part", ["autoencoder", "chunk"])
def test_shipped_weights_reach_their_targets(engine, part):
    metrics = list(PARTS[part](engine, 1))
    assert metrics and all(math.isfinite(metric.value) for metric in metrics)
    assert [metric.name for metric in metrics if metric.met is False] == []
