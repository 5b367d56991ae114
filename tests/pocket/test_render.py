import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lingbot.camera.motion import pitch_matrix, yaw_matrix
from lingbot.camera.rays import default_intrinsics
from pocket.evaluation.looks import laplacian_variance
from pocket.renderer.conditions import Conditions
from pocket.renderer.render import FAR, Renderer
from pocket.renderer.scene import make_scene

WIDTH, HEIGHT = 112, 64
CLEAR_NOON = Conditions(time="noon", weather="clear", ground="grass")


def pose(rotation=None, place=(0.0, 0.0, 0.0)):
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) if rotation is None else rotation
    matrix[:3, 3] = place
    return matrix


def picture(scene, *poses):
    return Renderer(scene).render(np.stack(poses), width=WIDTH, height=HEIGHT)


def town():
    """One of the scenes with most in it, in plain light."""
    scenes = (make_scene(seed) for seed in range(100))
    return next(scene for scene in scenes if scene.place == "town").under(CLEAR_NOON)


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
    before, after = picture(town(), pose(), pose(turn)).permute(0, 3, 1, 2).float()
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


def test_edges_are_no_stairs():
    """As rough as a picture four times as large each way, of which 16 pixels are averaged."""
    renderer = Renderer(town())
    shown = renderer.render(pose(place=(0, 0, -1))[None], width=WIDTH, height=HEIGHT)
    large = renderer.render(pose(place=(0, 0, -1))[None], width=4 * WIDTH, height=4 * HEIGHT)
    averaged = F.avg_pool2d(large.permute(0, 3, 1, 2).float(), 4).permute(0, 2, 3, 1)
    assert 0.9 < laplacian_variance(shown) / laplacian_variance(averaged.byte()) < 1.3


def test_the_ground_lies_one_below_the_eye():
    depth = Renderer(town()).depth(pose(pitch_matrix(-90))[None], width=WIDTH, height=HEIGHT)
    torch.testing.assert_close(depth, torch.ones_like(depth))


def test_depth_and_picture_are_of_one_world():
    """A step to the side moves every point by what its depth says."""
    step, fx = 0.2, default_intrinsics(WIDTH, HEIGHT).fx
    renderer = Renderer(town())
    poses = np.stack([pose(place=(0, 0, -1)), pose(place=(step, 0, -1))])
    before, after = renderer.render(poses, width=WIDTH, height=HEIGHT).permute(0, 3, 1, 2).float()
    depth = renderer.depth(poses, width=WIDTH, height=HEIGHT)[1]
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    x = torch.from_numpy(columns) + fx * step / depth
    y = torch.from_numpy(rows)
    grid = torch.stack([2 * x / WIDTH - 1, 2 * y / HEIGHT - 1], dim=-1).float()
    warped = F.grid_sample(before[None], grid[None], align_corners=False)[0]
    moved, still = ((other - after).abs().mean(0)[:, :-8] for other in (warped, before))
    assert moved.median() < 1
    assert moved.mean() < still.mean() / 2


def test_the_sky_is_far_and_fog_hides_what_is_there():
    clear, foggy = (
        Renderer(town().under(Conditions(time="noon", weather=weather, ground="grass")))
        for weather in ("clear", "fog")
    )
    size = {"width": WIDTH, "height": HEIGHT}
    depth = clear.depth(pose()[None], **size)
    assert (depth == FAR).any()
    contrasts = [renderer.render(pose()[None], **size).float().std() for renderer in (clear, foggy)]
    assert contrasts[0] > 1.3 * contrasts[1]


@pytest.mark.parametrize("ground", ["sand", "snow", "rock"])
def test_conditions_change_the_picture_and_leave_the_scene(ground):
    other = town().under(Conditions(time="night", weather="clear", ground=ground))
    assert other.solids == town().solids
    by_day, by_night = (picture(scene, pose()).float().mean() for scene in (town(), other))
    assert by_night < by_day / 2
