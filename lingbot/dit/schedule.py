"""The few noise levels that a distilled model visits.

Flow matching: a latent at noise level sigma is `(1 - sigma) * x0 + sigma * noise`, and the model
predicts the flow `noise - x0`.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingbot.config import NUM_TRAIN_TIMESTEPS, ScheduleConfig


class DenoisingStep(NamedTuple):
    """One noise level of a chunk's sampling."""

    timestep: int  # the model's input
    sigma: float  # noise level by which the flow is subtracted
    renoise_sigma: float  # noise level of this step's input


def build_steps(
    config: ScheduleConfig, *, num_steps: int | None = None
) -> tuple[DenoisingStep, ...]:
    """The steps from noise to clean: `num_steps` of them, or one per index of the config.

    The public reference truncates its 1000 shifted timesteps to integers, so that neighbours share
    one. It looks sigmas up by that integer: the first match to predict x0, the second to add noise
    again. A model distilled with those levels expects them.
    """
    sigmas, timesteps = noise_levels(config.shift)
    indices = config.indices
    if num_steps is not None and num_steps != len(indices):
        indices = tuple(i * NUM_TRAIN_TIMESTEPS // num_steps for i in range(num_steps))

    steps = []
    for index in indices:
        twins = np.flatnonzero(timesteps == timesteps[index])
        first, second = twins[0], twins[min(1, len(twins) - 1)]
        sigma, renoise_sigma = float(sigmas[first]), float(sigmas[second])
        steps.append(DenoisingStep(int(timesteps[index]), sigma, renoise_sigma))
    return tuple(steps)


def noise_levels(shift: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The sigmas of the training schedule, from noise to clean, and their truncated timesteps."""
    levels = np.linspace(1 - 1 / NUM_TRAIN_TIMESTEPS, 0.0, NUM_TRAIN_TIMESTEPS + 1)[:-1]
    sigmas = shift * levels / (1 + (shift - 1) * levels)
    return sigmas.astype(np.float32), (sigmas * NUM_TRAIN_TIMESTEPS).astype(np.int64)


def flow_to_x0(x: Tensor, flow: Tensor, sigma: float) -> Tensor:
    """The clean latent, given a noisy one and its flow. In float64, as in the reference."""
    return (x.double() - sigma * flow.double()).to(x.dtype)


def add_noise(x0: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """A clean latent at noise level `sigma`."""
    return (1 - sigma) * x0 + sigma * noise


def timestep_embedding(timestep: Tensor, dim: int) -> Tensor:
    """Sinusoids of a timestep, cosines first: [...] -> [..., dim] float32."""
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float64, device=timestep.device) / half
    angles = timestep.double()[..., None] * torch.pow(10000.0, -exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float()
