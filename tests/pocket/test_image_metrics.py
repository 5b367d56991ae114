"""Image metrics recognise blur, and walks that end dark."""

import pytest
import torch
import torch.nn.functional as F

from tests.pocket.conftest import MEDIUM, SMALL, require_cv2, sizes

require_cv2()

from pocket.evaluation.held_out import held_out_scenes, steady_walk
from pocket.evaluation.image_metrics import gradient_similarity, laplacian_variance, psnr
from pocket.evaluation.long_horizon import measure_long


@sizes(MEDIUM)
def test_metrics_recognise_blur(town, size):
    _, poses = steady_walk(town.scene, "", num_chunks=1)
    sharp = town.render(poses[:1], **size)
    video = sharp.permute(0, 3, 1, 2).float()
    blurred = F.avg_pool2d(video, 3, stride=1, padding=1).permute(0, 2, 3, 1).to(torch.uint8)
    assert gradient_similarity(sharp, sharp) == pytest.approx(1)
    assert gradient_similarity(blurred, sharp) < 0.99
    assert laplacian_variance(blurred) < laplacian_variance(sharp) / 2
    assert psnr([0.01, 0.001]) == pytest.approx(22.6, abs=0.01)


@sizes(SMALL)
def test_metrics_recognise_a_walk_that_ends_dark(size):
    """Half as bright and as colourful as rendered frames, and a quarter as sharp, as a square."""

    def generate(first, prompt, actions, *, keep_last):
        return first[None].expand(12 * keep_last, -1, -1, -1) // 2

    metrics = {m.name: m for m in measure_long(generate, held_out_scenes(3), size=size)}
    for name, share in (("sharpness", 0.25), ("brightness", 0.5), ("saturation", 0.5)):
        mean = metrics[f"after 3 minutes: {name} over the renderer's"]
        assert mean.value == pytest.approx(share, rel=0.3) and mean.met is False
        single = metrics[f"{name} of a generated walk, off by a factor of"]
        assert single.value > metrics[f"{name} of a rendered walk, off by a factor of"].value
