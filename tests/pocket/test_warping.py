"""The warping error of videos that move as the truth does, stand still, lag or go elsewhere."""

import pytest
import torch
import torch.nn.functional as F

from tests.pocket.conftest import require_cv2

require_cv2()

from pocket.training.warping import begin_flow, warping_error

FRAMES = 9


def slide(texture, speed):
    """A texture [1, 3, H, W] that moves `speed` pixels to the right from frame to frame."""
    height, width = texture.shape[-2:]
    rows, columns = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    place = torch.stack([columns, rows], dim=-1)[None]
    step = torch.tensor([2 / (width - 1), 0.0])
    return torch.stack(
        [
            F.grid_sample(texture, place - frame * speed * step, "bilinear", "reflection", True)
            for frame in range(FRAMES)
        ],
        dim=1,
    )


def error(generated, true):
    return warping_error(generated, true, begin_flow(true))


def draw_texture(seed):
    torch.manual_seed(seed)
    texture = F.avg_pool2d(torch.rand(1, 3, 64, 96), 7, stride=1, padding=3)
    return ((texture - 0.5) * 4 + 0.5).clamp(0, 1)


def test_it_depends_on_motion_and_not_on_content():
    true = slide(draw_texture(0), 0.75)
    assert error(true, true) < 0.1
    assert error(slide(draw_texture(1), 0.75), true) < 0.1  # other content with the same motion
    soft = F.avg_pool2d(true.flatten(0, 1), 5, stride=1, padding=2).view_as(true)
    assert error(0.2 * soft, true) < 0.1
    assert error(slide(draw_texture(0), 0.0), true) == pytest.approx(0.5, abs=0.01)
    assert error(torch.full_like(true, 0.3), true) == pytest.approx(0.5)
    assert error(slide(draw_texture(0), 0.375), true) == pytest.approx(0.2, abs=0.08)
    assert error(slide(draw_texture(0), -0.75), true) > 0.6


@pytest.mark.parametrize("speed", [0.3, 1.2])
def test_its_gradient_leads_to_the_true_speed(speed):
    true = slide(draw_texture(0), 0.75)
    own = torch.tensor(speed, requires_grad=True)
    error(slide(draw_texture(1), own), true).backward()
    assert (own.grad < 0) == (speed < 0.75)


def test_it_is_zero_where_nothing_moves():
    generated = slide(draw_texture(1), 0.75).requires_grad_()
    still = slide(draw_texture(0), 0.0)
    loss = error(generated, still)
    loss.backward()
    assert loss == 0 and not generated.grad.any()
