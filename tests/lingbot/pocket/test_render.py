import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lingbot.camera import default_intrinsics, pitch_matrix, yaw_matrix
from lingbot.pocket.render import render
from lingbot.pocket.scene import make_scene

WIDTH, HEIGHT = 112, 64


def pose(rotation=None, place=(0.0, 0.0, 0.0)):
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) if rotation is None else rotation
    matrix[:3, 3] = place
    return matrix


def picture(scene, *poses):
    return render(scene, np.stack(poses), width=WIDTH, height=HEIGHT)


def test_same_seed_same_bytes():
    first, second = (picture(make_scene(5), pose(place=(0.3, 0, 0.1))) for _ in range(2))
    assert torch.equal(first, second)


def test_another_seed_is_another_scene():
    first, second = (picture(make_scene(seed), pose()) for seed in (5, 6))
    assert (first != second).float().mean() > 0.5


def test_a_resting_camera_repeats_its_frame():
    frames = picture(make_scene(3), *[pose(yaw_matrix(23))] * 11)
    assert (frames == frames[:1]).all()


def test_a_frame_does_not_depend_on_those_beside_it():
    poses = [pose(yaw_matrix(17 * i), (0.1 * i, 0, 0)) for i in range(12)]
    together = picture(make_scene(4), *poses)
    alone = torch.cat([picture(make_scene(4), one) for one in poses])
    assert (together != alone).float().mean() < 1e-3  # a matrix product may round differently


@pytest.mark.parametrize("turn", [yaw_matrix(6), pitch_matrix(4)])
def test_turning_moves_the_picture_by_its_homography(turn):
    """A camera that turns on the spot sees the same rays: K R^-1 K^-1 maps pixels to pixels."""
    before, after = picture(make_scene(1), pose(), pose(turn)).permute(0, 3, 1, 2).float()
    fx, fy, cx, cy = default_intrinsics(WIDTH, HEIGHT)
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    rays = np.stack([(columns - cx) / fx, (rows - cy) / fy, np.ones_like(rows)], axis=-1) @ turn.T
    x, y = fx * rays[..., 0] / rays[..., 2] + cx, fy * rays[..., 1] / rays[..., 2] + cy
    grid = torch.from_numpy(np.stack([2 * x / WIDTH - 1, 2 * y / HEIGHT - 1], axis=-1)).float()
    warped = F.grid_sample(before[None], grid[None], align_corners=False)[0]
    seen = torch.from_numpy((x > 1) & (x < WIDTH - 1) & (y > 1) & (y < HEIGHT - 1))
    moved, still = ((other - after).abs().mean(0)[seen].median() for other in (warped, before))
    assert seen.float().mean() > 0.8
    assert moved < 1 < still


def test_the_ground_lies_one_below_the_eye():
    """Looking straight down, two pixels' worth of ground ahead is two rows up in the picture."""
    down, ahead = pitch_matrix(-90), 2 / default_intrinsics(WIDTH, HEIGHT).fy
    before, after = picture(make_scene(11), pose(down), pose(down, (0, 0, ahead))).int()
    moved = (after[2:] - before[:-2]).abs()
    assert (moved > 8).float().mean() < 0.01  # the fog is a little thinner or thicker
    assert before.float().std() > 20
