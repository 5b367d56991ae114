"""Where the camera goes: keys and pose files to relative poses, poses to Plücker maps.

OpenCV axes: x right, y down, z forward; a pose is a camera-to-world matrix. Poses are float64
until they become a map. Shape letters: F latent frames, H and W pixels, h and w latent pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lingbot.errors import LingbotError

Poses = NDArray[np.float64]

KEYS = "wasdijkl"
MOVE_STEP = 0.05  # what one key walks in a latent frame
# Angles are whole degrees: they add up exactly, so a pose that comes again is the same bits.
YAW_STEP = 6
PITCH_STEP = 4
PITCH_LIMIT = 85


def check_action(action: str) -> str:
    """Raise LingbotError unless an action is made of distinct keys; '' rests."""
    if len(set(action)) != len(action) or not set(action) <= set(KEYS):
        raise LingbotError(f"action {action!r} must be distinct keys of {KEYS!r}", field="actions")
    return action


def axis(action: str, positive: str, negative: str) -> int:
    """1, -1, or 0 where neither or both keys are held."""
    return (positive in action) - (negative in action)


def yaw_matrix(degrees: float) -> Poses:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def pitch_matrix(degrees: float) -> Poses:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def turn_pitch(pitch: int, action: str, *, step: int = PITCH_STEP) -> int:
    return min(max(pitch + axis(action, "i", "k") * step, -PITCH_LIMIT), PITCH_LIMIT)


def relative_pose(pitch: int, action: str) -> tuple[Poses, int]:
    """One latent frame of a live walk: the pose [4, 4] seen from the one before, and the new pitch.

    Pitch is in degrees. Orientation is always Ry(yaw) Rx(pitch), and walking goes along the new
    heading on the ground plane, so yaw and place cancel out: a held key repeats bit for bit. The
    translation is in steps of MOVE_STEP: one key walks a length of 1, whatever happened before.
    """
    new_pitch = turn_pitch(pitch, action)
    yaw = axis(action, "l", "j") * YAW_STEP
    level = pitch_matrix(-pitch)
    pose = np.eye(4)
    if yaw:
        pose[:3, :3] = level @ yaw_matrix(yaw) @ pitch_matrix(new_pitch)
    else:  # the same without rounding, and at rest the identity
        pose[:3, :3] = pitch_matrix(new_pitch - pitch)
    walked = np.array([axis(action, "d", "a"), 0.0, axis(action, "w", "s")])
    pose[:3, 3] = level @ yaw_matrix(yaw) @ walked
    return pose + 0.0, new_pitch  # one zero, not two


@dataclass(slots=True)
class Trajectory:
    """A live walk. Its memory does not grow: the next relative pose needs the pitch alone."""

    pitch: int = 0  # degrees
    started: bool = False

    def extend(self, actions: Sequence[str]) -> Poses:
        """Relative poses [F, 4, 4] of the next latent frames, one per action.

        Actions must be valid: `check_action` is the caller's. The first latent frame of a world
        shows its image, so that its pose is the identity for any action.
        """
        poses = []
        for action in actions:
            if self.started:
                pose, self.pitch = relative_pose(self.pitch, action)
            else:
                pose, self.started = np.eye(4), True
            poses.append(pose)
        return np.stack(poses)
