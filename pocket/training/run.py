"""The context of a training run, and helpers that all parts of a run share."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pocket.training.config import TrainingConfig

WARM_UP_STEPS = 50
DECAY = 0.3  # share of a run, at its end, over which the learning rate falls to zero


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """The files, the device and the time limit of a run, and its sizes."""

    folder: Path
    device: torch.device
    config: TrainingConfig
    deadline: float = float("inf")  # by `time.monotonic()`; a part then saves and stops
    compiles: bool = True  # the DiT's blocks, which takes a minute
    batch_factor: int = 1  # multiplies the clips of a batch
    num_processes: int = 0  # render clips; 0: this process does
    save_every_s: float = 120  # between checkpoints
    dtype: torch.dtype | None = None  # of matrix products; None: see `autocast`

    @property
    def deadline_passed(self) -> bool:
        return time.monotonic() > self.deadline

    def autocast(self) -> torch.autocast:
        """Cast matrix products to bfloat16 if the device has instructions for it.

        On other devices bfloat16 is much slower than float32.
        """
        if self.dtype is not None:
            enabled = self.dtype is torch.bfloat16
        else:
            enabled = multiplies_bfloat16(self.device)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)


def multiplies_bfloat16(device: torch.device) -> bool:
    """True for a GPU, and for a processor with instructions for products in bfloat16."""
    cpu = torch.cpu
    on_gpu = device.type == "cuda"
    return on_gpu or cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported()


class DeadlineReached(Exception):
    """The deadline came before the end of a part. The part is saved, and a later run resumes it."""


def learning_rate(step: int, *, num_steps: int, peak: float, decay: float = DECAY) -> float:
    """Return the rate of a step: a linear rise, a plateau, a linear fall to zero.

    A run may be resumed with another number of steps as long as its fall has not begun.
    """
    left = (num_steps - step) / (decay * num_steps)
    return peak * min(1.0, (step + 1) / WARM_UP_STEPS, max(left, 0.0))


def check_finite(name: str, step: int, loss: float) -> None:
    """Raise FloatingPointError for a loss that is not finite, before it reaches a checkpoint."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"{name} {step}: the loss is {loss}")


def save_grid(path: Path, rows: list[Tensor], *, scale: int = 1) -> None:
    """Write rows of frames, float [F, 3, H, W] in 0..1 each, as one PNG."""
    grid = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    pixels = (grid.permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(np.ascontiguousarray(pixels.repeat(scale, 0).repeat(scale, 1))).save(path)
