"""How rough pictures are, and how lively videos."""

import pytest
import torch
import torch.nn.functional as F

from pocket.training.roughness import liveliness, roughness


def test_roughness_is_told_from_blur_and_not_from_place():
    torch.manual_seed(0)
    grass = torch.rand(1, 2, 3, 16, 24)
    rough = {"neighbourhood": 8, "least": 1e-3}
    assert roughness(grass, **rough).shape == (2, 3, 3, 5)
    blurred = F.avg_pool2d(grass[0], 3, stride=1, padding=1)[None]
    assert (roughness(blurred, **rough) < 0.5 * roughness(grass, **rough)).all()
    elsewhere = roughness(grass.roll((5, 7), (3, 4)), **rough)
    assert elsewhere.mean() == pytest.approx(roughness(grass, **rough).mean().item(), rel=0.02)
    plain = torch.zeros(1, 1, 1, 8, 8, requires_grad=True)
    roughness(plain, **rough).sum().backward()
    assert torch.isfinite(plain.grad).all()


def test_liveliness_grows_with_the_way_and_not_with_what_stands():
    torch.manual_seed(0)
    lively = {"neighbourhood": 4, "least": 1e-3}
    picture = F.avg_pool2d(torch.rand(1, 3, 24, 32), 9, stride=1, padding=4)
    still = liveliness(picture[:, None].expand(-1, 3, -1, -1, -1), **lively)
    assert still.shape == (2, 3, 11, 15)
    torch.testing.assert_close(still, torch.full_like(still, 1e-3))
    walks = [
        torch.stack([picture.roll(frame * way, 3) for frame in range(3)], dim=1) for way in (1, 2)
    ]
    slow, fast = (liveliness(walk, **lively).mean() for walk in walks)
    assert 1.5 * slow < fast < 2 * slow
