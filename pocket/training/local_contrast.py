"""Local contrast and temporal difference of videos, as training targets.

A squared error favours blur where content is uncertain, and little motion where depth is uncertain.
These two measures depend on neither, and errors of them penalise both.
"""

import torch.nn.functional as F
from torch import Tensor


def local_contrast(videos: Tensor, *, neighbourhood: int, minimum: float) -> Tensor:
    """Return the root mean square difference of pixels from their local mean.

    [N, F, C, H, W] -> [N * F, C, rows, columns], one value for each neighbourhood of so many pixels
    along each axis; neighbourhoods overlap by half. Values far below `minimum` have no effect.
    """
    frames = videos.flatten(0, 1)
    local_mean = F.avg_pool2d(frames, 3, stride=1, padding=1, count_include_pad=False)
    return _root_mean_square(frames - local_mean, neighbourhood, minimum)


def temporal_difference(videos: Tensor, *, neighbourhood: int, minimum: float) -> Tensor:
    """Return the root mean square difference of pixels from the frame before.

    [N, F, C, H, W] -> [N * (F - 1), C, rows, columns]; neighbourhoods as in `local_contrast`.
    """
    return _root_mean_square(videos.diff(dim=1).flatten(0, 1), neighbourhood, minimum)


def _root_mean_square(differences: Tensor, neighbourhood: int, minimum: float) -> Tensor:
    power = F.avg_pool2d(differences.square(), neighbourhood, neighbourhood // 2)
    return (power + minimum**2).sqrt()
