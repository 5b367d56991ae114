"""Offline paths. `lingbot.verify` compares pose files and action strings with the reference's."""

import numpy as np

from lingbot.camera.motion import Trajectory
from lingbot.camera.pose_file import (
    interpolate_poses,
    relative_poses,
    rotation_matrix,
    rotation_vector,
)


def test_a_rotation_vector_gives_its_rotation_back():
    for vector in ([0, 0, 0], [0.3, -1.2, 2.0], [1e-9, 0, 0], [0, 0, 3.1]):
        matrix = rotation_matrix(np.array(vector, dtype=float))
        np.testing.assert_allclose(rotation_matrix(rotation_vector(matrix)), matrix, atol=1e-9)


def test_interpolation_keeps_the_ends():
    poses = Trajectory().extend(["", "w", "l", "wi"])
    path = interpolate_poses(poses, 7)
    np.testing.assert_allclose(path[[0, 2, 4, 6]], poses, atol=1e-12)


def test_a_path_without_motion_is_not_scaled():
    assert np.array_equal(relative_poses(np.stack([np.eye(4)] * 3)), np.stack([np.eye(4)] * 3))
