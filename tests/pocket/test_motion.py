"""The measures of motion against the renderer, where the answer is known."""

import cv2
import numpy as np
import pytest

pytest.importorskip("cv2")

from pocket.evaluation.motion import (
    as_frame,
    compare_flow,
    recovered_turn,
    seen_before,
    textured,
    true_flow,
)
from pocket.evaluation.play import steady_walk
from pocket.optical_flow import estimated_flow
from pocket.renderer.conditions import Conditions
from pocket.renderer.render import Renderer
from pocket.renderer.scene import make_scene

SIZE = {"width": 208, "height": 128}


@pytest.fixture(scope="module")
def scene():
    town = next(scene for scene in map(make_scene, range(100)) if scene.place == "town")
    return town.under(Conditions(time="noon", weather="clear", ground="grass"))


@pytest.mark.parametrize("key", ["a", "l", "i"])
def test_the_estimate_finds_the_renderers_flow(scene, key):
    _, poses = steady_walk(scene, key, num_chunks=1)
    renderer = Renderer(scene)
    before, after = map(as_frame, renderer.render(poses[[4, 6]], **SIZE))
    truth, both = true_flow(renderer, poses[[4, 6]], **SIZE)
    turn, stretch = compare_flow(estimated_flow(before, after), truth, both & textured(before))
    assert turn < 5
    assert stretch == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("blur", [1, 5, 9])
@pytest.mark.parametrize("key, yaw, pitch", [("j", -6, 0), ("l", 6, 0), ("i", 0, 4), ("k", 0, -4)])
def test_the_homography_gives_the_turn_back(scene, key, yaw, pitch, blur):
    _, poses = steady_walk(scene, key, num_chunks=1)
    frames = map(as_frame, Renderer(scene).render(poses[[4, 8]], **SIZE))
    before, after = (cv2.blur(frame, (blur, blur)) for frame in frames)
    assert recovered_turn(before, after) == pytest.approx((yaw, pitch), abs=0.1)


def test_flow_is_compared_as_turn_and_stretch():
    truth = np.random.default_rng(0).normal(size=(20, 20, 2)).astype(np.float32)
    turned = np.stack([-truth[..., 1], truth[..., 0]], axis=-1)
    everywhere = np.ones((20, 20), bool)
    assert compare_flow(2 * turned, truth, everywhere) == pytest.approx((90, 2), abs=1e-4)
    assert compare_flow(truth, truth, ~everywhere) is None


def test_what_was_seen_before(scene):
    _, poses = steady_walk(scene, "l", num_chunks=2)
    seen = seen_before(Renderer(scene), poses, [0], 16, **SIZE)
    assert not seen[:, -30:].any()  # 24 degrees further to the right
    assert seen[:, :60].mean() > 0.95
