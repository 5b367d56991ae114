"""Random walks and their poses."""

from random import Random

import numpy as np
import pytest

from lingbot.camera.motion import Trajectory
from pocket.renderer.trajectory import (
    HIGHEST_PITCH,
    STEP,
    random_actions,
    steady_actions,
    walk_poses,
)


@pytest.mark.parametrize("seed", range(4))
def test_frames_and_relative_poses_describe_the_same_walk(seed):
    actions = random_actions(Random(seed), 18)
    relatives, poses = walk_poses(actions, start=(1.0, -2.0, 0.7))
    assert poses.shape == (4 * 18 - 3, 4, 4)
    ends = poses[::4]
    seen = np.linalg.inv(ends[:-1]) @ ends[1:]
    seen[:, :3, 3] /= STEP
    np.testing.assert_allclose(relatives[1:], seen, atol=1e-12)


def test_training_sees_the_poses_of_a_live_walk():
    actions = random_actions(Random(9), 18)
    relatives, _ = walk_poses(actions, start=(0, 0, 0))
    np.testing.assert_array_equal(relatives, Trajectory().extend(actions))


def test_the_eye_keeps_its_height_and_never_tilts_far():
    for seed in range(40):
        draw = random_actions if seed % 2 else steady_actions
        _, poses = walk_poses(draw(Random(seed), 18), start=(0, 0, 0))
        assert np.abs(poses[:, 1, 3]).max() < 1e-12
        assert np.abs(poses[:, 1, 2]).max() <= np.sin(np.radians(HIGHEST_PITCH)) + 1e-9


def test_a_walk_turns_evenly_between_latent_frames():
    _, poses = walk_poses(["", "l"], start=(0, 0, 0))
    headings = np.degrees(np.arctan2(poses[:, 0, 2], poses[:, 2, 2]))
    np.testing.assert_allclose(headings, [0, 1.5, 3, 4.5, 6], atol=1e-9)


def test_steady_walks_hold_every_key_and_none():
    walks = [steady_actions(Random(seed), 18) for seed in range(100)]
    assert {actions[1] for actions in walks} == {*"wasdijkl", ""}
    for actions in walks:
        held = 6 if actions[1] in ("i", "k") else 17
        assert actions == ["", *[actions[1]] * held, *[""] * (17 - held)]
