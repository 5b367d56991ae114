"""Blur is seen in the figures that stand for it."""

import pytest
import torch
import torch.nn.functional as F

from lingbot.pocket.evaluation.looks import gradient_similarity, laplacian_variance, psnr


def test_blur_is_seen():
    torch.manual_seed(0)
    sharp = (torch.rand(1, 64, 96, 3) * 255).to(torch.uint8)
    video = sharp.permute(0, 3, 1, 2).float()
    blurred = F.avg_pool2d(video, 3, stride=1, padding=1).permute(0, 2, 3, 1).to(torch.uint8)
    assert gradient_similarity(sharp, sharp) == pytest.approx(1)
    assert gradient_similarity(blurred, sharp) < 0.99
    assert laplacian_variance(blurred) < laplacian_variance(sharp) / 2
    assert psnr([0.01, 0.001]) == pytest.approx(22.6, abs=0.01)
