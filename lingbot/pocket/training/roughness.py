"""How rough pictures are, place by place: against blur, which an error alone prefers.

Where what is there is not known for certain, an error is least for a picture without it. How rough
the place is may be known all the same, and what is made must be as rough.
"""

import torch.nn.functional as F
from torch import Tensor


def roughness(pictures: Tensor, *, neighbourhood: int, least: float) -> Tensor:
    """By how much pixels differ from those around them, root mean square of each neighbourhood.

    [N, C, H, W] -> [N, C, rows, columns] of neighbourhoods of so many pixels each way, which
    overlap by half. What is far under `least` counts for nothing.
    """
    around = F.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
    power = F.avg_pool2d((pictures - around).square(), neighbourhood, neighbourhood // 2)
    return (power + least**2).sqrt()
