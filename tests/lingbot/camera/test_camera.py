import math

import numpy as np
import pytest
import torch

from lingbot.camera.motion import KEYS, PITCH_LIMIT, Trajectory, check_action, relative_pose
from lingbot.camera.pose_file import (
    interpolate_poses,
    relative_poses,
    rotation_matrix,
    rotation_vector,
)
from lingbot.camera.rays import Intrinsics, control_map, default_intrinsics, plucker_map, pose_key
from lingbot.errors import LingbotError

STEP_OF_KEY = {
    "w": (0, 0, 1),
    "s": (0, 0, -1),
    "a": (-1, 0, 0),
    "d": (1, 0, 0),
    "ws": (0, 0, 0),
    "": (0, 0, 0),
}


@pytest.mark.parametrize("action, step", STEP_OF_KEY.items())
def test_a_key_walks_one_step(action, step):
    pose, _ = relative_pose(0, action)
    assert pose[:3, 3].tolist() == list(step)
    assert np.array_equal(pose[:3, :3], np.eye(3))


def test_l_turns_right_and_i_looks_up():
    right, _ = relative_pose(0, "l")
    up, pitch = relative_pose(0, "i")
    assert right[0, 2] == pytest.approx(math.sin(math.radians(6)))  # forward leans to x
    assert up[1, 2] == pytest.approx(-math.sin(math.radians(4)))  # and to -y, y being down
    assert pitch == 4


def test_a_walk_stays_on_the_ground_whatever_the_pitch():
    """The slow twin: poses in the world, then frame to frame."""
    trajectory = Trajectory()
    keys = ["", "i", "wi", "wl", "w", "dj", "k", "sk"] * 3
    world = np.eye(4)
    heights = []
    for pose in trajectory.extend(keys):
        world = world @ pose
        heights.append(world[1, 3])
    assert np.abs(heights).max() < 1e-12


def test_a_live_walk_equals_the_walk_in_the_world():
    yaw, pitch, place, poses = 0.0, 0.0, np.zeros(3), [np.eye(4)]
    keys = ["", "w", "wl", "i", "wji", "a", "dk", "s"]
    for action in keys[1:]:
        yaw += math.radians(6) * (("l" in action) - ("j" in action))
        pitch += math.radians(4) * (("i" in action) - ("k" in action))
        heading = rotation_matrix(np.array([0, yaw, 0]))
        step = [("d" in action) - ("a" in action), 0, ("w" in action) - ("s" in action)]
        place = place + heading @ step
        pose = np.eye(4)
        pose[:3, :3] = heading @ rotation_matrix(np.array([pitch, 0, 0]))
        pose[:3, 3] = place
        poses.append(pose)
    expected = [np.eye(4), *(np.linalg.inv(a) @ b for a, b in zip(poses, poses[1:], strict=False))]
    np.testing.assert_allclose(Trajectory().extend(keys), expected, atol=1e-12)


@pytest.mark.parametrize("before", ["", "i", "iiiik"])
@pytest.mark.parametrize("action", ["", "w", "wl", "dj"])
def test_a_held_key_repeats_bit_for_bit_at_any_pitch(action, before):
    poses = Trajectory().extend(["", *before, *[action] * 50])
    assert len({pose.tobytes() for pose in poses[len(before) + 1 :]}) == 1


@pytest.mark.parametrize("key", ["i", "k"])
def test_a_tilt_repeats_bit_for_bit(key):
    poses = Trajectory().extend(["", *[key] * 21])
    assert len({pose.tobytes() for pose in poses[1:]}) == 1


@pytest.mark.parametrize("before", ["", "iii", "kkkkk"])
def test_a_resting_camera_is_the_identity(before):
    assert Trajectory().extend(["", *before, ""])[-1].tobytes() == np.eye(4).tobytes()


def test_pitch_stops_at_its_limit_and_comes_back():
    trajectory = Trajectory()
    poses = trajectory.extend(["", *["i"] * 40])
    assert trajectory.pitch == PITCH_LIMIT
    assert np.array_equal(poses[-1], np.eye(4))
    trajectory.extend(["k"])
    assert trajectory.pitch == PITCH_LIMIT - 4


def test_the_first_latent_frame_rests():
    assert np.array_equal(Trajectory().extend(["w"])[0], np.eye(4))


@pytest.mark.parametrize("action", ["x", "ww", "W", "w "])
def test_what_is_no_key_is_named(action):
    with pytest.raises(LingbotError, match=KEYS):
        check_action(action)


def test_a_rotation_survives_its_vector():
    for vector in ([0, 0, 0], [0.3, -1.2, 2.0], [1e-9, 0, 0], [0, 0, 3.1]):
        matrix = rotation_matrix(np.array(vector, dtype=float))
        np.testing.assert_allclose(rotation_matrix(rotation_vector(matrix)), matrix, atol=1e-9)


def test_interpolation_keeps_the_ends():
    poses = Trajectory().extend(["", "w", "l", "wi"])
    path = interpolate_poses(poses, 7)
    np.testing.assert_allclose(path[[0, 2, 4, 6]], poses, atol=1e-12)


def test_a_path_that_never_moves_has_no_largest_step():
    assert np.array_equal(relative_poses(np.stack([np.eye(4)] * 3)), np.stack([np.eye(4)] * 3))


def test_plucker_channels_fold_by_channel_then_row_then_column():
    folded = plucker_map(np.eye(4)[None], default_intrinsics(48, 32), width=48, height=32)
    assert folded.shape == (384, 1, 4, 6)
    camera = default_intrinsics(48, 32)
    x, y = 8 * 5 + 3, 8 * 2 + 6  # pixel: column 5 row 2 of the latent, column 3 row 6 within it
    ray = np.array([(x + 0.5 - camera.cx) / camera.fx, (y + 0.5 - camera.cy) / camera.fy, 1])
    ray /= np.linalg.norm(ray)
    for axis in range(3):
        assert folded[(3 + axis) * 64 + 6 * 8 + 3, 0, 2, 5] == pytest.approx(ray[axis], rel=1e-6)


def test_default_intrinsics_scale_with_the_size():
    assert default_intrinsics(832, 480) == Intrinsics(500, 500, 416, 240)
    assert default_intrinsics(416, 480) == Intrinsics(250, 500, 208, 240)


def test_act_models_see_directions_and_walking_keys():
    maps = control_map(
        "act", np.stack([np.eye(4)] * 2), ["", "wl"], default_intrinsics(48, 32),
        width=48, height=32,
    )  # fmt: skip
    planes = maps.unflatten(0, (7, 64))
    assert planes[3:, :, 0].abs().sum() == 0
    assert torch.equal(planes[3:, :, 1].mean(dim=(1, 2, 3)), torch.tensor([1.0, 0, 0, 0]))


def key_of(pose=None, *, control="cam", action="", size=(48, 32), camera=None):
    width, height = size
    intrinsics = camera or default_intrinsics(width, height)
    pose = np.eye(4) if pose is None else pose
    return pose_key(control, pose, action, intrinsics, width=width, height=height)


def test_a_pose_is_known_by_its_numbers():
    pose = relative_pose(8, "wl")[0]
    moved = pose.copy()
    moved[0, 3] = np.nextafter(moved[0, 3], 2)
    assert key_of(pose) == key_of(pose.copy()) == key_of(np.asfortranarray(pose))
    assert key_of(pose) != key_of(moved)


def test_two_zeros_are_one():
    pose = np.eye(4)
    pose[0, 3] = -0.0
    assert pose.tobytes() != np.eye(4).tobytes()
    assert key_of(pose) == key_of(np.eye(4))
    maps = [
        plucker_map(one[None], default_intrinsics(48, 32), width=48, height=32)
        for one in (pose, np.eye(4))
    ]
    assert torch.equal(maps[0].signbit(), maps[1].signbit())


def test_every_key_of_a_held_walk_is_one():
    poses = Trajectory().extend(["", "i", *["wl"] * 20])
    assert len({key_of(pose) for pose in poses[2:]}) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"pose": relative_pose(0, "w")[0]},
        {"size": (32, 48)},
        {"size": (96, 64), "camera": default_intrinsics(48, 32)},
        {"camera": default_intrinsics(48, 32)._replace(fx=30)},
        {"camera": default_intrinsics(48, 32)._replace(cy=15)},
        {"control": "act"},
    ],
)
def test_what_a_map_depends_on_is_in_its_key(other):
    assert key_of(**other) != key_of()


@pytest.mark.parametrize("action", "wasd")
def test_act_models_tell_walking_keys_apart(action):
    assert key_of(control="act", action=action) != key_of(control="act")
    assert key_of(control="cam", action=action) == key_of(control="cam")


def test_act_models_do_not_mind_the_order_of_keys_or_the_turning_ones():
    assert key_of(control="act", action="wd") == key_of(control="act", action="dwl")
