"""Latents between a device and the arrays of snapshots.

Tested in `tests/lingbot/runtime/test_restoring.py`.

Shape letters: F latent frames, h w latent pixels.
"""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from lingbot.runtime.snapshot import as_float32


def pack(latents: Tensor, dtype: torch.dtype) -> NDArray[Any]:
    """[1, 16, F, h, w] of a device -> [16, F, h, w] in host memory.

    `dtype` is the engine's. The DiT takes its input in that type, so that nothing is lost.
    """
    if dtype is torch.bfloat16:
        return latents[0].to(dtype).cpu().contiguous().view(torch.uint16).numpy()
    return latents[0].float().cpu().contiguous().numpy()


def unpack(latents: NDArray[Any], device: torch.device) -> Tensor:
    """[16, F, h, w] -> [1, 16, F, h, w] float32 on `device`."""
    return torch.from_numpy(as_float32(latents).copy())[None].to(device)
