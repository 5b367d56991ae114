"""The last stage: a past of the model's own making, and steps that land where many would.

Flow matching knows the past only as it was and wants many small steps. In play the past is what the
model made of it, and there are four steps. Here those of a batch's clean chunks that are among its
noisy ones are first replaced, mostly, by what the model makes of them, from so little noise that
they stay the clip's (as in Resampling Forcing, Guo et al., 2025); then a step from each level that
play visits learns to end where the teacher's path ends (consistency distillation, Song et al.,
2023).

Shape letters as in `batch`; K' noisy chunks.
"""

from dataclasses import dataclass, replace
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from lingbot.config import SCHEDULE_POCKET
from lingbot.model import WorldModel
from lingbot.pocket.training.batch import Batch, predict_flow
from lingbot.schedule import add_noise, build_steps

LEVELS = tuple(step.sigma for step in build_steps(SCHEDULE_POCKET))  # that play visits, falling
SUBSTEPS = 2  # of the teacher, from one level to the next
MOST_ROUNDS = 3  # times that the past is made anew, each time from the last


@dataclass(frozen=True, slots=True)
class Distillation:
    teacher: WorldModel  # as flow matching left it
    average: WorldModel  # of the student's weights

    @torch.no_grad()
    def own_past(self, batch: Batch, random: Random) -> Batch:
        """The batch, and its clean chunks as the student makes them of the true ones."""
        for _ in range(random.randint(0, MOST_ROUNDS)):
            start = random.randrange(2, len(LEVELS))
            made = batch.truth
            for level in LEVELS[start:]:
                sigma = torch.full(made.shape[:2], level, device=made.device)
                x = add_noise(made, torch.randn_like(made), level)
                flow = predict_flow(self.average, batch, _sequence(batch, x), sigma)
                made = x - level * flow
            batch = _with_past(batch, made)
        return batch

    def loss(self, model: WorldModel, batch: Batch) -> Tensor:
        """How far the student's steps are from where the teacher's path leads, as flow."""
        chosen = torch.randint(len(LEVELS), batch.truth.shape[:2])
        levels = torch.tensor((*LEVELS, 0.0))
        sigma, after = (levels[place].to(batch.x0.device) for place in (chosen, chosen + 1))
        x = _mix(batch.truth, torch.randn_like(batch.truth), sigma)
        target = self._follow(batch, x, sigma, after)
        flow = predict_flow(model, batch, _sequence(batch, x), sigma)
        return F.mse_loss(flow, (x - target) / _wide(sigma))

    @torch.no_grad()
    def _follow(self, batch: Batch, x: Tensor, sigma: Tensor, after: Tensor) -> Tensor:
        """x0 at the end of the teacher's step to `after` and the student's from there on.

        After the last level there is the truth.
        """
        here = x
        for part in range(SUBSTEPS):
            level = sigma + (after - sigma) * part / SUBSTEPS
            flow = predict_flow(self.teacher, batch, _sequence(batch, here), level)
            here = here + _wide(after - sigma) / SUBSTEPS * flow
        flow = predict_flow(self.average, batch, _sequence(batch, here), after)
        reached = here - _wide(after) * flow
        return torch.where(_wide(after) == 0, batch.truth, reached)


def _sequence(batch: Batch, x: Tensor) -> Tensor:
    """The clean chunks, then x."""
    return torch.cat([batch.x0[:, : batch.num_clean], x], dim=1)


def _with_past(batch: Batch, made: Tensor) -> Batch:
    """The batch with clean chunks taken from `made` [B, K', 16, F, h, w] where it has them."""
    x0 = batch.x0.clone()
    for place, number in enumerate(batch.memory.clean):
        if number in batch.memory.noisy:
            x0[:, place] = made[:, list(batch.memory.noisy).index(number)]
    return replace(batch, x0=x0)


def _mix(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    return torch.lerp(x0, noise, _wide(sigma))


def _wide(sigma: Tensor) -> Tensor:
    """[B, K'] -> [B, K', 1, 1, 1, 1]."""
    return sigma[..., None, None, None, None]
