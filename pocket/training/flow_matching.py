"""Flow matching from a noisy past, the loss of the teacher-forced stages.

Shape letters as in `batch`.

Tested in `tests/pocket/test_dit.py`.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lingbot.config import SCHEDULE_POCKET
from lingbot.dit.schedule import build_steps
from pocket.training.batch import FlowPredictor, TrainingBatch

LEVELS = tuple(step.sigma for step in build_steps(SCHEDULE_POCKET))  # in play, falling
MIN_LEVEL = 0.1  # before the shift; play never has less noise
CONTEXT_NOISE = 0.2  # greatest noise level of the clean past


def flow_loss(
    predict: FlowPredictor, batch: TrainingBatch, *, high_noise_share: float = 0.0
) -> Tensor:
    """Return the mean squared error of the noisy chunks' flow, from a past with some noise.

    `high_noise_share` is the share of noise levels drawn from the two highest.
    """
    sigma = draw_sigma(*batch.truth.shape[:2])
    highest = torch.tensor(LEVELS)[torch.randint(2, sigma.shape)]
    sigma = torch.where(torch.rand(sigma.shape) < high_noise_share, highest, sigma)
    sigma = sigma.to(batch.x0.device)
    noise = torch.randn_like(batch.truth)
    flow = predict(batch, noisy_sequence(batch, noise, sigma), sigma)
    return F.mse_loss(flow, noise - batch.truth)


def draw_sigma(*shape: int) -> Tensor:
    """Draw noise levels: half of them those of play, half any level between these."""
    level = MIN_LEVEL + (1 - MIN_LEVEL) * torch.rand(shape)
    shift = SCHEDULE_POCKET.shift
    between = shift * level / (1 + (shift - 1) * level)
    in_play = torch.tensor(LEVELS)[torch.randint(len(LEVELS), shape)]
    return torch.where(torch.rand(shape) < 0.5, in_play, between)


def noisy_sequence(batch: TrainingBatch, noise: Tensor, sigma: Tensor) -> Tensor:
    """Return [B, K, 16, F, h, w]: clean chunks with a little noise on top, then noisy chunks."""
    clean = batch.x0[:, : batch.num_clean]
    context_level = CONTEXT_NOISE * torch.rand(len(clean), 1, 1, 1, 1, 1, device=clean.device) ** 2
    level = sigma[..., None, None, None, None]
    noisy = (1 - level) * batch.truth + level * noise
    return torch.cat([clean + context_level * torch.randn_like(clean), noisy], dim=1)


@torch.no_grad()
def camera_ablation_gain(predict: FlowPredictor, batch: TrainingBatch) -> float:
    """Return the share of the loss that right poses save over other clips' poses, at high noise."""
    sigma = torch.full(batch.truth.shape[:2], LEVELS[1], device=batch.x0.device)
    noise = torch.randn_like(batch.truth)
    x = noisy_sequence(batch, noise, sigma)
    wrong = replace(batch, pose_rows=batch.pose_rows.roll(1, dims=0))
    losses = [
        F.mse_loss(predict(posed, x, sigma), noise - batch.truth).item() for posed in (batch, wrong)
    ]
    return 1 - losses[0] / losses[1]
