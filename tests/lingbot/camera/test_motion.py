import math

import numpy as np
import pytest

from lingbot.camera.motion import KEYS, Trajectory, check_action, relative_pose
from lingbot.camera.pose_file import rotation_matrix
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


def test_a_walk_stays_on_the_ground_at_any_pitch():
    trajectory = Trajectory()
    keys = ["", "i", "wi", "wl", "w", "dj", "k", "sk"] * 3
    world = np.eye(4)
    heights = []
    for pose in trajectory.extend(keys):
        world = world @ pose
        heights.append(world[1, 3])
    assert np.abs(heights).max() < 1e-12


def test_a_live_walk_equals_the_walk_in_the_world():
    """The slow twin: poses in the world, then frame to frame."""
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


@pytest.mark.parametrize("key, back, highest", [("i", "k", 84), ("k", "i", -84)])
def test_a_pitch_step_past_85_degrees_is_dropped(key, back, highest):
    trajectory = Trajectory()
    poses = trajectory.extend(["", *[key] * 40])
    assert trajectory.pitch == highest
    assert np.array_equal(poses[21], poses[1])  # the last step is a whole one
    assert all(np.array_equal(pose, np.eye(4)) for pose in poses[22:])
    trajectory.extend([back])
    assert abs(trajectory.pitch) == 80


@pytest.mark.parametrize("others", ["", "w", "l", "jsd"])
def test_the_other_keys_move_on_where_a_pitch_step_is_dropped(others):
    at_limit, without = relative_pose(84, others + "i"), relative_pose(84, others)
    assert at_limit[0].tobytes() == without[0].tobytes()  # and the camera cache shares an entry
    assert at_limit[1] == 84


def test_the_first_latent_frame_rests():
    assert np.array_equal(Trajectory().extend(["w"])[0], np.eye(4))


@pytest.mark.parametrize("action", ["x", "ww", "W", "w "])
def test_a_wrong_action_is_refused_with_the_keys(action):
    with pytest.raises(LingbotError, match=KEYS):
        check_action(action)
