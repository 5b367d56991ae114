"""What both trainings share: optimizers, the learning rate's course, checkpoints, sheets."""

import io
import math
import shutil
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from lingbot.runtime.presets import fastest_dtype

WARM_UP = 50  # steps
DECAY = 0.3  # share of a run, its end, over which the rate falls to nothing, where none is given
PART_BYTES = 15_000_000  # of a checkpoint's files
SAVE_EVERY = 120  # seconds between checkpoints


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run is given: where it computes, and until when."""

    device: torch.device
    deadline: float = float("inf")  # of time.monotonic(), at which it saves and stops
    compiles: bool = True  # whether the DiT's blocks are worth a minute of compilation
    batch_factor: int = 1  # times the clips of a step on a CPU

    @property
    def out_of_time(self) -> bool:
        return time.monotonic() > self.deadline

    def autocast(self) -> torch.autocast:
        """To bfloat16 where the device multiplies it itself; elsewhere that is far slower."""
        dtype = fastest_dtype(self.device)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=dtype is torch.bfloat16)


class OutOfTime(Exception):
    """The deadline came before the end: what there is is saved, and a later run goes on."""


def learning_rate(step: int, *, num_steps: int, peak: float, decay: float = DECAY) -> float:
    """Rise, stay, fall. A run may be resumed with another length until its fall begins."""
    left = (num_steps - step) / (decay * num_steps)
    return peak * min(1.0, (step + 1) / WARM_UP, max(left, 0.0))


def check_finite(name: str, step: int, loss: float) -> None:
    """Raise FloatingPointError where a run is lost, before it is saved over what was good."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"{name} {step}: the loss is {loss}")


def save_whole(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_suffix(".unfinished")
    torch.save(content, unfinished)
    unfinished.rename(path)


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file whole or not at all: that it exists says that a part is done."""
    unfinished = path.with_suffix(".unfinished")
    save_file(tensors, unfinished)
    unfinished.rename(path)


def save_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write it whole or not at all, as a folder of files that are easily carried about."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    data = buffer.getbuffer()
    _finish(path)
    writing, written = path.with_suffix(".writing"), path.with_suffix(".written")
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir()
    for i, start in enumerate(range(0, len(data), PART_BYTES)):
        (writing / f"{i:03}").write_bytes(data[start : start + PART_BYTES])
    writing.rename(written)
    _finish(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint of a run that was cut off, on the CPU, or None at its start."""
    _finish(path)
    if not path.exists():
        return None
    data = b"".join(part.read_bytes() for part in sorted(path.iterdir()))
    checkpoint: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    return checkpoint


def _finish(path: Path) -> None:
    """Let a checkpoint that is written whole take its place, also after a kill on the way."""
    written = path.with_suffix(".written")
    if written.exists():
        shutil.rmtree(path, ignore_errors=True)
        written.rename(path)


def save_sheet(path: Path, rows: list[Tensor], *, scale: int = 1) -> None:
    """Write rows of frames, float [F, 3, H, W] in 0..1 each, as one PNG."""
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    pixels = (sheet.permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(np.ascontiguousarray(pixels.repeat(scale, 0).repeat(scale, 1))).save(path)


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal, for matrices and convolutions (Jordan et al., 2024).

    Steps are scaled to the size of Adam's, so that one learning rate serves both.
    """

    def __init__(self, weights: list[nn.Parameter], *, momentum: float = 0.95) -> None:
        super().__init__(weights, {"lr": 0.0, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike = defaultdict[torch.Size, list[nn.Parameter]](list)
            for weight in group["params"]:
                alike[weight.shape].append(weight)
            for weights in alike.values():
                ahead = torch.stack([self._look_ahead(w, group["momentum"]) for w in weights])
                size = 0.2 * max(ahead.shape[1:]) ** 0.5
                for weight, step in zip(weights, orthogonal(ahead), strict=True):
                    weight.sub_(step.view_as(weight), alpha=group["lr"] * size)

    def _look_ahead(self, weight: nn.Parameter, momentum: float) -> Tensor:
        """Nesterov's momentum of a weight's gradient, as a matrix."""
        if "average" not in self.state[weight]:
            self.state[weight]["average"] = torch.zeros_like(weight)
        average: Tensor = self.state[weight]["average"]
        assert weight.grad is not None
        average.lerp_(weight.grad, 1 - momentum)
        return weight.grad.lerp(average, momentum).flatten(1)


def orthogonal(matrices: Tensor) -> Tensor:
    """About the nearest matrices with orthonormal rows or columns: Newton-Schulz, quintic.

    [K, N, M], all at once: they are small, and a GPU would wait for each.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.mT if tall else x


class Optimizers:
    """Muon for what is more than a vector in `hidden`, AdamW for everything else."""

    def __init__(self, model: nn.Module, hidden: list[nn.Module]) -> None:
        matrices = [p for part in hidden for p in part.parameters() if p.ndim > 1]
        chosen = {id(p) for p in matrices}
        others = [p for p in model.parameters() if id(p) not in chosen]
        self.both = (
            Muon(matrices),
            torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.01),
        )

    def step(self, rate: float, *, muon_factor: float = 1.0) -> None:
        """Move the weights, and forget their gradients."""
        for optimizer, factor in zip(self.both, (muon_factor, 1.0), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad()

    def state(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self.both]

    def load(self, state: list[dict[str, Any]]) -> None:
        for optimizer, part in zip(self.both, state, strict=True):
            optimizer.load_state_dict(part)
