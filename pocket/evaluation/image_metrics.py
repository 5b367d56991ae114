"""Metrics of single frames, and distances between frames.

Shape letters: F frames, H W pixels. Frames are uint8 [F, H, W, 3].
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pocket.training.clips import to_video


def mean_squared_error(generated: Tensor, truth: Tensor) -> float:
    """Return the mean squared error of values in 0..1."""
    return float((generated.float() - truth.float()).square().mean()) / 255**2


def psnr(errors: list[float]) -> float:
    """Return the PSNR in dB of the mean of these mean squared errors."""
    return -10 * math.log10(float(np.mean(errors)))


def thumbnail(frame: Tensor) -> Tensor:
    """Shrink a frame [H, W, 3] to float [1, 3, 16, 26] in 0..1."""
    return F.interpolate(to_video(frame[None]), size=(16, 26), mode="area")


def _grey(frames: Tensor) -> Tensor:
    """Return the mean of the channels, [F, 1, H, W] in 0..1."""
    return to_video(frames).mean(1, keepdim=True)


def gradient_similarity(generated: Tensor, truth: Tensor) -> float:
    """Compare gradient magnitudes (Xue et al., 2014, without the pooling). 1: equal edges."""
    one, other = (_gradient(_grey(frames)) for frames in (generated, truth))
    same = (2 * one * other + 0.0026) / (one.square() + other.square() + 0.0026)
    return float(same.mean())


def _gradient(grey: Tensor) -> Tensor:
    across, down = grey.diff(dim=-1)[..., :-1, :], grey.diff(dim=-2)[..., :-1]
    return (across.square() + down.square()).sqrt()


def laplacian_variance(frames: Tensor) -> float:
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    return float(F.conv2d(_grey(frames), kernel).var(dim=(1, 2, 3)).mean())


def brightness(frames: Tensor) -> float:
    return float(_grey(frames).mean())


def saturation(frames: Tensor) -> float:
    video = to_video(frames)
    return float((video.amax(1) - video.amin(1)).mean())


IMAGE_METRICS: dict[str, Callable[[Tensor], float]] = {
    "sharpness": laplacian_variance,
    "brightness": brightness,
    "saturation": saturation,
}
