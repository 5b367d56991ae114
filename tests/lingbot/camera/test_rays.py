import numpy as np
import pytest
import torch

from lingbot.camera.motion import Trajectory, relative_pose
from lingbot.camera.rays import Intrinsics, control_map, default_intrinsics, plucker_map, pose_key


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


def test_act_models_take_directions_and_walking_keys():
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


def test_a_pose_is_identified_by_its_numbers():
    pose = relative_pose(8, "wl")[0]
    moved = pose.copy()
    moved[0, 3] = np.nextafter(moved[0, 3], 2)
    assert key_of(pose) == key_of(pose.copy()) == key_of(np.asfortranarray(pose))
    assert key_of(pose) != key_of(moved)


def test_minus_zero_counts_as_zero():
    pose = np.eye(4)
    pose[0, 3] = -0.0
    assert pose.tobytes() != np.eye(4).tobytes()
    assert key_of(pose) == key_of(np.eye(4))
    maps = [
        plucker_map(one[None], default_intrinsics(48, 32), width=48, height=32)
        for one in (pose, np.eye(4))
    ]
    assert torch.equal(maps[0].signbit(), maps[1].signbit())


def test_a_held_walk_has_one_key():
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
def test_the_key_holds_every_input_of_the_map(other):
    assert key_of(**other) != key_of()


@pytest.mark.parametrize("action", "wasd")
def test_act_models_distinguish_walking_keys(action):
    assert key_of(control="act", action=action) != key_of(control="act")
    assert key_of(control="cam", action=action) == key_of(control="cam")


def test_act_models_ignore_turning_keys_and_the_order_of_keys():
    assert key_of(control="act", action="wd") == key_of(control="act", action="dwl")
