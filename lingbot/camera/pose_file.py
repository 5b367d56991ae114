"""Offline camera paths: pose files and action strings to relative poses.

OpenCV axes: x right, y down, z forward. A pose is a camera-to-world matrix, float64. Shape letter:
F frames of the path.
"""

import math
from collections.abc import Sequence

import numpy as np

from lingbot.camera.motion import (
    MOVE_STEP,
    Poses,
    axis,
    pitch_matrix,
    turn_pitch,
    yaw_matrix,
)

OFFLINE_TURN_STEP = 2  # degrees of yaw or pitch per video frame


def actions_to_poses(actions: Sequence[str]) -> Poses:
    """The path of an offline action string, one action per video frame: [F + 1, 4, 4]."""
    yaw = pitch = 0
    place = np.zeros(3)
    poses = [np.eye(4)]
    for action in actions:
        yaw += axis(action, "l", "j") * OFFLINE_TURN_STEP
        pitch = turn_pitch(pitch, action, step=OFFLINE_TURN_STEP)
        walked = np.array([axis(action, "d", "a"), 0.0, axis(action, "w", "s")])
        place = place + MOVE_STEP * (yaw_matrix(yaw) @ walked)
        pose = np.eye(4)
        pose[:3, :3] = yaw_matrix(yaw) @ pitch_matrix(pitch)
        pose[:3, 3] = place
        poses.append(pose)
    return np.stack(poses)


def interpolate_poses(c2w: Poses, num: int) -> Poses:
    """`num` poses at equal distances along a path [F, 4, 4].

    Translations are interpolated linearly, rotations spherically (slerp).
    """
    places = np.linspace(0, len(c2w) - 1, num)
    before = np.clip(places.astype(int), 0, max(len(c2w) - 2, 0))
    after = np.minimum(before + 1, len(c2w) - 1)
    poses = []
    for place, i, j in zip(places, before, after, strict=True):
        share = place - i
        pose = np.eye(4)
        rotation = rotation_vector(c2w[i, :3, :3].T @ c2w[j, :3, :3])
        pose[:3, :3] = c2w[i, :3, :3] @ rotation_matrix(share * rotation)
        pose[:3, 3] = (1 - share) * c2w[i, :3, 3] + share * c2w[j, :3, 3]
        poses.append(pose)
    return np.stack(poses)


def rotation_vector(rotation: Poses) -> Poses:
    """Axis times angle [3] of a rotation [3, 3] by less than 180 degrees."""
    twist = np.array(
        [
            rotation[2, 1] - rotation[1, 2],
            rotation[0, 2] - rotation[2, 0],
            rotation[1, 0] - rotation[0, 1],
        ]
    )
    sine = float(np.linalg.norm(twist)) / 2
    angle = math.atan2(sine, (float(np.trace(rotation)) - 1) / 2)
    return twist * (angle / (2 * sine) if sine > 1e-12 else 0.5)


def rotation_matrix(vector: Poses) -> Poses:
    """Rodrigues' formula: axis times angle [3] -> [3, 3]."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix: Poses = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)
    return matrix


def relative_poses(c2w: Poses) -> Poses:
    """Frame-to-frame poses of a path [F, 4, 4], the identity first.

    Translations are divided by the largest step of the whole path, as in the reference.
    """
    relative = np.concatenate([np.eye(4)[None], np.linalg.inv(c2w[:-1]) @ c2w[1:]])
    largest = np.linalg.norm(relative[:, :3, 3], axis=1).max()
    if largest > 0:
        relative[:, :3, 3] /= largest
    return relative
