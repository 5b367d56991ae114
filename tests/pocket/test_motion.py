"""Measures of motion, where the answer is known from the renderer."""

import numpy as np
import pytest

from tests.pocket.conftest import FULL, MEDIUM, require_cv2, sizes

require_cv2()

import cv2

from pocket.evaluation.held_out import steady_walk
from pocket.evaluation.motion import (
    compare_flow,
    estimate_turn,
    textured,
    to_array,
    true_flow,
    visible_before,
)
from pocket.optical_flow import estimated_flow


@sizes(MEDIUM)
@pytest.mark.parametrize("key", ["a", "l", "i"])
def test_the_estimate_finds_the_renderers_flow(town, key, size):
    _, poses = steady_walk(town.scene, key, num_chunks=1)
    before, after = map(to_array, town.render(poses[[4, 6]], **size))
    truth, visible = true_flow(town, poses[[4, 6]], **size)
    angle, scale = compare_flow(estimated_flow(before, after), truth, visible & textured(before))
    assert angle < 5
    assert scale == pytest.approx(1, abs=0.1)


BLURRED = [
    *(("plain", MEDIUM, blur) for blur in (1, 3, 5)),
    *(pytest.param("town", FULL, blur, marks=pytest.mark.slow) for blur in (1, 5, 9)),
]


@pytest.mark.parametrize("place, size, blur", BLURRED)
@pytest.mark.parametrize("key, yaw, pitch", [("j", -6, 0), ("l", 6, 0), ("i", 0, 4), ("k", 0, -4)])
def test_the_homography_recovers_the_turn(request, place, size, blur, key, yaw, pitch):
    renderer = request.getfixturevalue(place)
    _, poses = steady_walk(renderer.scene, key, num_chunks=1)
    frames = map(to_array, renderer.render(poses[[4, 8]], **size))
    before, after = (cv2.blur(frame, (blur, blur)) for frame in frames)
    assert estimate_turn(before, after) == pytest.approx((yaw, pitch), abs=0.1)


def test_flow_is_compared_by_angle_and_scale():
    truth = np.random.default_rng(0).normal(size=(20, 20, 2)).astype(np.float32)
    turned = np.stack([-truth[..., 1], truth[..., 0]], axis=-1)
    everywhere = np.ones((20, 20), bool)
    assert compare_flow(2 * turned, truth, everywhere) == pytest.approx((90, 2), abs=1e-4)
    assert compare_flow(truth, truth, ~everywhere) is None


def test_pixels_that_were_visible_before(town):
    _, poses = steady_walk(town.scene, "l", num_chunks=2)
    visible = visible_before(town, poses, [0], 16, **FULL)
    assert not visible[:, -30:].any()  # 24 degrees farther to the right
    assert visible[:, :60].mean() > 0.95
