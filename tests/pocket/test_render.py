"""The renderer: determinism, geometry and light."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lingbot.camera.motion import pitch_matrix, yaw_matrix
from lingbot.camera.rays import default_intrinsics
from pocket.evaluation.image_metrics import laplacian_variance
from pocket.renderer.conditions import Conditions
from pocket.renderer.packed_solids import FAR
from pocket.renderer.render import Renderer
from pocket.renderer.scene import make_scene
from tests.pocket.conftest import MEDIUM, SMALL

WIDTH, HEIGHT = MEDIUM["width"], MEDIUM["height"]


def pose(rotation=None, place=(0.0, 0.0, 0.0)):
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) if rotation is None else rotation
    matrix[:3, 3] = place
    return matrix


def render(renderer, *poses, size=SMALL):
    return renderer.render(np.stack(poses), **size)


def test_a_seed_gives_the_same_bytes():
    renderers = [Renderer(make_scene(5)) for _ in range(2)]
    first, second = (render(renderer, pose(place=(0.3, 0, 0.1))) for renderer in renderers)
    assert torch.equal(first, second)


def test_another_seed_gives_another_scene():
    first, second = (render(Renderer(make_scene(seed)), pose()) for seed in (5, 6))
    assert (first != second).float().mean() > 0.5


def test_a_resting_camera_repeats_its_frame():
    frames = render(Renderer(make_scene(3)), *[pose(yaw_matrix(23))] * 11)
    assert (frames == frames[:1]).all()


def test_a_frame_does_not_depend_on_its_neighbours():
    renderer = Renderer(make_scene(4))
    poses = [pose(yaw_matrix(17 * i), (0.1 * i, 0, 0)) for i in range(12)]
    together = render(renderer, *poses)
    alone = torch.cat([render(renderer, one) for one in poses])
    assert (together != alone).float().mean() < 1e-3  # matrix products may round differently


@pytest.mark.parametrize("turn", [yaw_matrix(6), pitch_matrix(4)])
def test_turning_moves_the_frame_by_its_homography(town, turn):
    """A camera that turns on the spot sees the same rays: K R^-1 K^-1 maps pixels to pixels."""
    frames = render(town, pose(), pose(turn), size=MEDIUM)
    before, after = frames.permute(0, 3, 1, 2).float()
    fx, fy, cx, cy = default_intrinsics(WIDTH, HEIGHT)
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    rays = np.stack([(columns - cx) / fx, (rows - cy) / fy, np.ones_like(rows)], axis=-1) @ turn.T
    x, y = fx * rays[..., 0] / rays[..., 2] + cx, fy * rays[..., 1] / rays[..., 2] + cy
    grid = torch.from_numpy(np.stack([2 * x / WIDTH - 1, 2 * y / HEIGHT - 1], axis=-1)).float()
    warped = F.grid_sample(before[None], grid[None], align_corners=False)[0]
    inside = torch.from_numpy((x > 1) & (x < WIDTH - 1) & (y > 1) & (y < HEIGHT - 1))
    moved, still = ((other - after).abs().mean(0)[inside].median() for other in (warped, before))
    assert inside.float().mean() > 0.8
    assert moved < 1 < still


def test_edges_are_antialiased(town):
    """Frames are as sharp as frames of four times the size whose 16 pixels are averaged."""
    view = pose(place=(0, 0, -1))
    shown = render(town, view, size=MEDIUM)
    large = render(town, view, size={"width": 4 * WIDTH, "height": 4 * HEIGHT})
    averaged = F.avg_pool2d(large.permute(0, 3, 1, 2).float(), 4).permute(0, 2, 3, 1)
    assert 0.9 < laplacian_variance(shown) / laplacian_variance(averaged.byte()) < 1.3


def test_the_ground_lies_one_below_the_eye(town):
    depth = town.depth(pose(pitch_matrix(-90))[None], **MEDIUM)
    torch.testing.assert_close(depth, torch.ones_like(depth))


def test_depth_agrees_with_the_motion_of_a_step_aside(town):
    """A step to the side moves every point by an amount that follows from its depth."""
    step, fx = 0.2, default_intrinsics(WIDTH, HEIGHT).fx
    poses = np.stack([pose(place=(0, 0, -1)), pose(place=(step, 0, -1))])
    before, after = town.render(poses, **MEDIUM).permute(0, 3, 1, 2).float()
    depth = town.depth(poses, **MEDIUM)[1]
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    x = torch.from_numpy(columns) + fx * step / depth
    y = torch.from_numpy(rows)
    grid = torch.stack([2 * x / WIDTH - 1, 2 * y / HEIGHT - 1], dim=-1).float()
    warped = F.grid_sample(before[None], grid[None], align_corners=False)[0]
    moved, still = ((other - after).abs().mean(0)[:, :-8] for other in (warped, before))
    assert moved.median() < 1
    assert moved.mean() < still.mean() / 2


def test_the_sky_is_far_and_fog_hides_the_scene(town):
    foggy = Renderer(town.scene.under(Conditions(time="noon", weather="fog", ground="grass")))
    depth = town.depth(pose()[None], **MEDIUM)
    assert (depth == FAR).any()
    clear, hidden = (render(one, pose(), size=MEDIUM).float().std() for one in (town, foggy))
    assert clear > 1.3 * hidden


@pytest.mark.parametrize("ground", ["sand", "snow", "rock"])
def test_conditions_change_the_frame_and_keep_the_scene(town, ground):
    other = town.scene.under(Conditions(time="night", weather="clear", ground=ground))
    assert other.solids == town.scene.solids
    by_day, by_night = (render(one, pose()).float().mean() for one in (town, Renderer(other)))
    assert by_night < by_day / 2
