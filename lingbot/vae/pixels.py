"""uint8 images and frames, and the tensors that the autoencoders take and give."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Frames = NDArray[np.uint8]


def to_unit(image: Frames) -> Tensor:
    """[H, W, 3] -> [3, H, W] float32 in 0..1."""
    return torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)


def to_signed(image: Frames) -> Tensor:
    """[H, W, 3] -> [3, H, W] float32 in -1..1, in the reference's order of operations."""
    return (to_unit(image) - 0.5) / 0.5


def to_frames(frames: Tensor) -> Frames:
    """[T, 3, H, W], about in 0..1 -> [T, H, W, 3]. The copy to the CPU waits for a GPU."""
    pixels = (frames.clamp(0, 1).float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return np.ascontiguousarray(pixels.cpu().numpy())
