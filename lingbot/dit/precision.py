"""The number types of a DiT's weights."""

from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)

# They are small, and rounding them would reach the whole stream, or the flow itself.
FLOAT32_PARTS = ("norm", "modulation", "time_embedding.", "time_projection.", "head.head.")


def stays_float32(name: str) -> bool:
    """True for a tensor that stays in float32 in a model of any type.

    These are the norms' weights, the modulation vectors, the time embedding and the last layer.
    Their names are the same in a checkpoint and in the model.
    """
    return any(part in name for part in FLOAT32_PARTS)


def cast_weights(model: Module, dtype: torch.dtype) -> Module:
    """Cast a DiT or a block of it to `dtype` in place, but for weights that stay in float32."""
    for name, weight in model.named_parameters():
        weight.data = weight.data.to(torch.float32 if stays_float32(name) else dtype)
    return model
