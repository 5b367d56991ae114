"""The latents of Wan 2.1: the mean and deviation of their 16 channels, as published.

The DiT's latents are normalised by them. Tested in `tests/lingbot/vae/test_wan.py`.
"""

import torch
from torch import Tensor

WAN_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


def per_channel(values: tuple[float, ...], *, device: torch.device) -> Tensor:
    """[C, 1, 1, 1] float32, which scales latents [B, C, F, h, w]."""
    return torch.tensor(values, dtype=torch.float32, device=device)[:, None, None, None]
