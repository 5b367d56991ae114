"""Local contrast and temporal difference of videos."""

import pytest
import torch
import torch.nn.functional as F

from pocket.training.local_contrast import local_contrast, temporal_difference


def test_local_contrast_depends_on_blur_and_not_on_place():
    torch.manual_seed(0)
    grass = torch.rand(1, 2, 3, 16, 24)
    options = {"neighbourhood": 8, "minimum": 1e-3}
    assert local_contrast(grass, **options).shape == (2, 3, 3, 5)
    blurred = F.avg_pool2d(grass[0], 3, stride=1, padding=1)[None]
    assert (local_contrast(blurred, **options) < 0.5 * local_contrast(grass, **options)).all()
    shifted = local_contrast(grass.roll((5, 7), (3, 4)), **options)
    assert shifted.mean() == pytest.approx(local_contrast(grass, **options).mean().item(), rel=0.02)
    plain = torch.zeros(1, 1, 1, 8, 8, requires_grad=True)
    local_contrast(plain, **options).sum().backward()
    assert torch.isfinite(plain.grad).all()


def test_temporal_difference_grows_with_motion_and_is_least_at_rest():
    torch.manual_seed(0)
    options = {"neighbourhood": 4, "minimum": 1e-3}
    frame = F.avg_pool2d(torch.rand(1, 3, 24, 32), 9, stride=1, padding=4)
    still = temporal_difference(frame[:, None].expand(-1, 3, -1, -1, -1), **options)
    assert still.shape == (2, 3, 11, 15)
    torch.testing.assert_close(still, torch.full_like(still, 1e-3))
    walks = [
        torch.stack([frame.roll(number * step, 3) for number in range(3)], dim=1) for step in (1, 2)
    ]
    slow, fast = (temporal_difference(walk, **options).mean() for walk in walks)
    assert 1.5 * slow < fast < 2 * slow
