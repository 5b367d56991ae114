"""Blur is seen in the figures that stand for it."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("cv2")

from lingbot.pocket.evaluation.looks import gradient_similarity, laplacian_variance, psnr
from lingbot.pocket.evaluation.play import steady_walk
from lingbot.pocket.scenery.render import Renderer
from lingbot.pocket.training.data import SIZE


def test_blur_is_seen(town):
    _, poses = steady_walk(town, "", num_chunks=1)
    sharp = Renderer(town).render(poses[:1], **SIZE)
    video = sharp.permute(0, 3, 1, 2).float()
    blurred = F.avg_pool2d(video, 3, stride=1, padding=1).permute(0, 2, 3, 1).to(torch.uint8)
    assert gradient_similarity(sharp, sharp) == pytest.approx(1)
    assert gradient_similarity(blurred, sharp) < 0.99
    assert laplacian_variance(blurred) < laplacian_variance(sharp) / 2
    assert psnr([0.01, 0.001]) == pytest.approx(22.6, abs=0.01)
