"""The measures of control, on players with a known result: the renderer itself, and a still."""

import pytest
import torch

from tests.pocket.conftest import FULL, MEDIUM, require_cv2

require_cv2()

from pocket.evaluation.control_accuracy import measure_keys, measure_rest, measure_turns
from pocket.evaluation.held_out import steady_walk


class CachedRenderer:
    """Renders each walk once: the measures ask for the walks that the renderer plays."""

    def __init__(self, renderer):
        self.scene, self.depth = renderer.scene, renderer.depth
        self._render, self._frames = renderer.render, {}

    def render(self, poses, **size):
        walk = poses.tobytes()
        if walk not in self._frames:
            self._frames[walk] = self._render(poses, **size)
        return self._frames[walk]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("plain", MEDIUM), id="plain-112x64"),
        pytest.param(("town", FULL), id="town-full", marks=pytest.mark.slow),
    ],
)
def world(request):
    """A renderer and the size of its frames."""
    name, size = request.param
    return CachedRenderer(request.getfixturevalue(name)), size


@pytest.fixture
def measure(world):
    """Call a measure with a player, and list its metrics."""
    renderer, size = world
    return lambda measure, generate: list(measure(generate, [renderer], size=size))


@pytest.fixture
def rendered(world):
    """A player that follows its keys exactly."""
    renderer, size = world

    def generate(_first, _prompt, actions):
        _, poses = steady_walk(renderer.scene, actions[-1], num_chunks=len(actions) // 3)
        return renderer.render(poses, **size)

    return generate


def still(first, _prompt, actions):
    """A player that repeats its first frame."""
    return first[None].expand(4 * len(actions) - 3, -1, -1, -1)


def test_the_renderer_follows_its_keys(measure, rendered):
    metrics = {metric.name: metric for metric in measure(measure_keys, rendered)}
    assert metrics["chunks that follow their key"].value >= 0.9
    assert all(f"chunks that follow {key}" in metrics for key in "wasdijkl")
    measurable, *errors = measure(measure_turns, rendered)
    assert measurable.value > 0.8
    for metric in errors:
        assert metric.value < 0.1, metric
    textured, everywhere = measure(measure_rest, rendered)
    assert textured.met and max(textured.value, everywhere.value) < 0.01


def test_faint_frames_follow_their_keys_if_their_motion_is_right(measure, rendered):
    def faint(*arguments):
        frames = rendered(*arguments).float()
        return (frames.mean() + (frames - frames.mean()) / 4).byte()

    *_, all_keys = measure(measure_keys, faint)
    assert all_keys.value >= 0.9


def test_a_still_does_not_follow_its_keys(measure):
    *_, all_keys = measure(measure_keys, still)
    assert all_keys.met is False and all_keys.value == 0
    _, yaw, _, pitch, _ = measure(measure_turns, still)
    assert (yaw.value, pitch.value) == pytest.approx((6, 4), abs=0.1)
    assert yaw.met is False


def test_a_sliding_frame_is_not_at_rest(measure):
    def slide(first, _prompt, actions):
        return torch.stack([first.roll(i, dims=1) for i in range(4 * len(actions) - 3)])

    textured, _ = measure(measure_rest, slide)
    assert textured.met is False and textured.value == pytest.approx(1, rel=0.3)
