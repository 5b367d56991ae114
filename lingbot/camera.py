"""Where the camera goes: keys and pose files to relative poses, poses to Plücker maps.

OpenCV axes: x right, y down, z forward; a pose is a camera-to-world matrix. Poses are float64
until they become a map. Shape letters: F latent frames, H and W pixels, h and w latent pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingbot.config import SPATIAL_STRIDE
from lingbot.errors import LingbotError

Poses = NDArray[np.float64]

KEYS = "wasdijkl"
MOVE_STEP = 0.05  # what one key walks in a latent frame
# Angles are whole degrees: they add up exactly, so a pose that comes again is the same bits.
YAW_STEP = 6
PITCH_STEP = 4
OFFLINE_TURN_STEP = 2  # per video frame, yaw and pitch, of the offline action strings
PITCH_LIMIT = 85


class Intrinsics(NamedTuple):
    """A pinhole camera, in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float

    def scaled(self, *, source: tuple[int, int], size: tuple[int, int]) -> "Intrinsics":
        """The same camera at another size; both are (width, height)."""
        x, y = size[0] / source[0], size[1] / source[1]
        return Intrinsics(self.fx * x, self.fy * y, self.cx * x, self.cy * y)


def default_intrinsics(width: int, height: int) -> Intrinsics:
    """The realtime service's camera, fx = fy = 500 at 832x480, at the given size."""
    at_source = Intrinsics(500.0, 500.0, 832 / 2, 480 / 2)
    return at_source.scaled(source=(832, 480), size=(width, height))


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
        """Relative poses [F, 4, 4] of the next latent frames.

        The first latent frame of a world is the picture it starts from: its pose is the identity,
        whatever is held.
        """
        poses = []
        for action in actions:
            if self.started:
                pose, self.pitch = relative_pose(self.pitch, check_action(action))
            else:
                pose, self.started = np.eye(4), True
            poses.append(pose)
        return np.stack(poses)


def actions_to_poses(actions: Sequence[str]) -> Poses:
    """The offline action strings' path, one action a *video* frame: F actions -> [F + 1, 4, 4]."""
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
    """``num`` poses at even places along a path [F, 4, 4]: straight lines and slerp."""
    places = np.linspace(0, len(c2w) - 1, num)
    before = np.clip(places.astype(int), 0, max(len(c2w) - 2, 0))
    after = np.minimum(before + 1, len(c2w) - 1)
    poses = []
    for place, i, j in zip(places, before, after, strict=True):
        share = place - i
        pose = np.eye(4)
        turn = rotation_vector(c2w[i, :3, :3].T @ c2w[j, :3, :3])
        pose[:3, :3] = c2w[i, :3, :3] @ rotation_matrix(share * turn)
        pose[:3, 3] = (1 - share) * c2w[i, :3, 3] + share * c2w[j, :3, 3]
        poses.append(pose)
    return np.stack(poses)


def rotation_vector(rotation: Poses) -> Poses:
    """Axis times angle [3] of a rotation [3, 3], for angles short of a half turn."""
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
    turned: Poses = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)
    return turned


def relative_poses(c2w: Poses) -> Poses:
    """Frame-to-frame poses of a pose file's path [F, 4, 4], the identity first.

    Translations are divided by the largest step of the whole path, as the reference does it.
    """
    relative = np.concatenate([np.eye(4)[None], np.linalg.inv(c2w[:-1]) @ c2w[1:]])
    largest = np.linalg.norm(relative[:, :3, 3], axis=1).max()
    if largest > 0:
        relative[:, :3, 3] /= largest
    return relative


def plucker_rays(relative: Poses, intrinsics: Intrinsics, *, width: int, height: int) -> Tensor:
    """Rays by pixel: relative poses [F, 4, 4] -> [6, F, H, W] float32, origin then direction."""
    relative = relative + 0.0  # one zero, not two: equal poses are equal maps, bit for bit
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x = (columns - intrinsics.cx) / intrinsics.fx
    y = (rows - intrinsics.cy) / intrinsics.fy
    directions = np.stack([x, y, np.ones_like(x)], axis=-1)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    directions = np.einsum("fij,hwj->ifhw", relative[:, :3, :3], directions)
    origins = np.broadcast_to(relative[:, :3, 3].T[:, :, None, None], directions.shape)
    return torch.from_numpy(np.concatenate([origins, directions]).astype(np.float32))


def fold(rays: Tensor) -> Tensor:
    """Fold 8x8 pixels into channels, (c, sub_y, sub_x): [K, F, H, W] -> [K * 64, F, h, w]."""
    channels, frames, height, width = rays.shape
    stride = SPATIAL_STRIDE
    rays = rays.reshape(channels, frames, height // stride, stride, width // stride, stride)
    return rays.permute(0, 3, 5, 1, 2, 4).reshape(
        channels * stride**2, frames, height // stride, width // stride
    )


def plucker_map(relative: Poses, intrinsics: Intrinsics, *, width: int, height: int) -> Tensor:
    """What a ``cam`` model is told of its poses: [F, 4, 4] -> [384, F, h, w] float32."""
    return fold(plucker_rays(relative, intrinsics, width=width, height=height))


def control_map(
    control: str,
    relative: Poses,
    actions: Sequence[str],
    intrinsics: Intrinsics,
    *,
    width: int,
    height: int,
) -> Tensor:
    """What a model is told of its poses, [384 or 448, F, h, w] float32.

    A ``cam`` model sees origin and direction; an ``act`` model sees the direction, then a plane
    for each of w, a, s, d that is 1 while the key is held.
    """
    if control == "cam":
        return plucker_map(relative, intrinsics, width=width, height=height)
    directions = plucker_rays(relative, intrinsics, width=width, height=height)[3:]
    held = torch.tensor([[float(key in action) for action in actions] for key in "wasd"])
    planes = held[:, :, None, None].expand(-1, -1, height, width)
    return fold(torch.cat([directions, planes]))


def pose_key(
    control: str,
    pose: Poses,
    action: str,
    intrinsics: Intrinsics,
    *,
    width: int,
    height: int,
) -> bytes:
    """Everything that ``control_map`` of one latent frame depends on; ``pose`` is [4, 4].

    Equal keys are equal maps, bit for bit. Two zeros of different sign are one.
    """
    held = [float(key in action) for key in "wasd"] if control == "act" else []
    numbers = [*(pose + 0.0).flat, *intrinsics, width, height, *held]
    return control.encode() + np.array(numbers, np.float64).tobytes()
