"""How rough pictures are and how much they move, place by place: against blur and standstill.

Where what is there is not known for certain, an error is least for a picture without it, and where
it is not known how far away something is, for one in which it hardly moves. How rough the place is,
and how much changes there, may be known all the same, and what is made must be so, too.
"""

import torch.nn.functional as F
from torch import Tensor


def roughness(videos: Tensor, *, neighbourhood: int, least: float) -> Tensor:
    """By how much pixels differ from those around them, root mean square of each neighbourhood.

    [N, F, C, H, W] -> [N * F, C, rows, columns] of neighbourhoods of so many pixels each way, which
    overlap by half. What is far under `least` counts for nothing.
    """
    pictures = videos.flatten(0, 1)
    around = F.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
    return _size(pictures - around, neighbourhood, least)


def liveliness(videos: Tensor, *, neighbourhood: int, least: float) -> Tensor:
    """By how much pixels differ from those of the frame before, as `roughness` sums up.

    [N, F, C, H, W] -> [N * (F - 1), C, rows, columns].
    """
    return _size(videos.diff(dim=1).flatten(0, 1), neighbourhood, least)


def _size(differences: Tensor, neighbourhood: int, least: float) -> Tensor:
    power = F.avg_pool2d(differences.square(), neighbourhood, neighbourhood // 2)
    return (power + least**2).sqrt()
