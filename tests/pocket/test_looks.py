"""Blur is seen in the figures that stand for it."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("cv2")

from pocket.evaluation import lasting
from pocket.evaluation.looks import gradient_similarity, laplacian_variance, psnr
from pocket.evaluation.play import steady_walk
from pocket.renderer.render import Renderer
from pocket.training.data import SIZE


def test_blur_is_seen(town):
    _, poses = steady_walk(town, "", num_chunks=1)
    sharp = Renderer(town).render(poses[:1], **SIZE)
    video = sharp.permute(0, 3, 1, 2).float()
    blurred = F.avg_pool2d(video, 3, stride=1, padding=1).permute(0, 2, 3, 1).to(torch.uint8)
    assert gradient_similarity(sharp, sharp) == pytest.approx(1)
    assert gradient_similarity(blurred, sharp) < 0.99
    assert laplacian_variance(blurred) < laplacian_variance(sharp) / 2
    assert psnr([0.01, 0.001]) == pytest.approx(22.6, abs=0.01)


def test_a_walk_that_ends_dark_is_seen(monkeypatch):
    """Half as bright and as colourful as the renderer's, and a quarter as sharp, as a square is."""

    def play(engine, first, prompt, actions, *, keep_last):
        return first[None].expand(12 * keep_last, -1, -1, -1) // 2

    monkeypatch.setattr(lasting, "play", play)
    figures = {figure.name: figure for figure in lasting.measure_long(None, 3)}
    for name, share in (("sharpness", 0.25), ("brightness", 0.5), ("saturation", 0.5)):
        whole = figures[f"after 3 minutes: {name} over the renderer's"]
        assert whole.value == pytest.approx(share, rel=0.3) and whole.met is False
        each = figures[f"{name} of a walk, off by a factor of"]
        assert each.value > figures[f"{name} of a renderer's walk, off by a factor of"].value
