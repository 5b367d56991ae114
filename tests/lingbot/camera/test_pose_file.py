"""Offline paths. `lingbot.verify` compares pose files and action strings with the reference's."""

import numpy as np
import pytest

from lingbot.camera.motion import Trajectory
from lingbot.camera.pose_file import (
    actions_to_poses,
    interpolate_poses,
    relative_poses,
    rotation_matrix,
    rotation_vector,
)


def test_a_rotation_vector_gives_its_rotation_back():
    for vector in ([0, 0, 0], [0.3, -1.2, 2.0], [1e-9, 0, 0], [0, 0, 3.1]):
        matrix = rotation_matrix(np.array(vector, dtype=float))
        np.testing.assert_allclose(rotation_matrix(rotation_vector(matrix)), matrix, atol=1e-9)


@pytest.mark.parametrize("key, highest", [("i", 84), ("k", -84)])
def test_an_action_string_drops_pitch_steps_past_85_degrees(key, highest):
    path = actions_to_poses([key] * 60 + ["w"])
    pitches = [0, *range(2, 85, 2), *[84] * 19]
    expected = [
        rotation_matrix(np.array([np.sign(highest) * np.radians(p), 0, 0])) for p in pitches
    ]
    np.testing.assert_allclose(path[:, :3, :3], expected, atol=1e-12)
    np.testing.assert_allclose(path[-1, :3, 3], [0, 0, 0.05], atol=1e-12)


def test_interpolation_keeps_the_ends():
    poses = Trajectory().extend(["", "w", "l", "wi"])
    path = interpolate_poses(poses, 7)
    np.testing.assert_allclose(path[[0, 2, 4, 6]], poses, atol=1e-12)


def test_a_path_without_motion_is_not_scaled():
    assert np.array_equal(relative_poses(np.stack([np.eye(4)] * 3)), np.stack([np.eye(4)] * 3))
