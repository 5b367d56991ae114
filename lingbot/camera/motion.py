"""Live camera motion: the keys held in each latent frame to relative poses.

OpenCV axes: x right, y down, z forward. A pose is a camera-to-world matrix, float64. Angles are in
degrees. Shape letter: F latent frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lingbot.errors import LingbotError

Poses = NDArray[np.float64]

KEYS = "wasdijkl"
MOVE_STEP = 0.05  # world units per latent frame, for one key
# Whole degrees per latent frame: sums are exact, so that a repeated pose has the same bits.
YAW_STEP = 6
PITCH_STEP = 4
PITCH_LIMIT = 85  # above or below level; whole steps from level end at 84


def check_action(action: str) -> str:
    """Raise LingbotError unless an action is made of distinct keys; '' is rest."""
    if len(set(action)) != len(action) or not set(action) <= set(KEYS):
        raise LingbotError(f"action {action!r} must be distinct keys of {KEYS!r}", field="actions")
    return action


def axis(action: str, positive: str, negative: str) -> int:
    """1 or -1 for one of two opposite keys; 0 if neither or both are held."""
    return (positive in action) - (negative in action)


def yaw_matrix(degrees: float) -> Poses:
    """The rotation [3, 3] about the y axis; positive turns right."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def pitch_matrix(degrees: float) -> Poses:
    """The rotation [3, 3] about the x axis; positive looks up."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def turn_pitch(pitch: int, action: str, *, step: int = PITCH_STEP) -> int:
    """The pitch after an action. A step that would pass PITCH_LIMIT is dropped, not shortened."""
    turned = pitch + axis(action, "i", "k") * step
    return turned if abs(turned) <= PITCH_LIMIT else pitch


def relative_pose(pitch: int, action: str) -> tuple[Poses, int]:
    """One latent frame of a live walk: its pose [4, 4] in the previous frame, and the new pitch.

    Orientation is always Ry(yaw) Rx(pitch), and walking follows the new heading on the ground
    plane. Yaw and position therefore cancel out, and a held key repeats bit for bit. The
    translation is in units of MOVE_STEP: one key gives a length of 1.
    """
    new_pitch = turn_pitch(pitch, action)
    yaw = axis(action, "l", "j") * YAW_STEP
    level = pitch_matrix(-pitch)
    pose = np.eye(4)
    if yaw:
        pose[:3, :3] = level @ yaw_matrix(yaw) @ pitch_matrix(new_pitch)
    else:  # the same without rounding: at rest it is exactly the identity
        pose[:3, :3] = pitch_matrix(new_pitch - pitch)
    walked = np.array([axis(action, "d", "a"), 0.0, axis(action, "w", "s")])
    pose[:3, 3] = level @ yaw_matrix(yaw) @ walked
    return pose + 0.0, new_pitch  # turns -0.0 into 0.0


@dataclass(slots=True)
class Trajectory:
    """A live walk. The next relative pose depends on the pitch alone, so no history is kept."""

    pitch: int = 0  # degrees
    started: bool = False

    def extend(self, actions: Sequence[str]) -> Poses:
        """Relative poses [F, 4, 4] of the next latent frames, one per action.

        Actions must be valid; callers use `check_action`. The first latent frame of a world shows
        its image, so that its pose is the identity for any action.
        """
        poses = []
        for action in actions:
            if self.started:
                pose, self.pitch = relative_pose(self.pitch, action)
            else:
                pose, self.started = np.eye(4), True
            poses.append(pose)
        return np.stack(poses)
