"""Training of the pocket world's DiT in stages, see `STAGES` in `config`.

The first two stages are teacher-forced flow matching with a noisy past, on small and on full
frames. The third is self-forcing.
"""

import copy
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel

from lingbot.dit.model import WorldModel
from pocket.training.batch import PromptTable, TrainingBatch, draw_batch, predict_flow
from pocket.training.checkpoint import load_checkpoint, save_checkpoint
from pocket.training.clips import Clip
from pocket.training.config import StageConfig
from pocket.training.discriminator import Discriminator
from pocket.training.flow_matching import camera_ablation_gain, flow_loss
from pocket.training.latents import load_codec, load_latents
from pocket.training.optimizer import Optimizers
from pocket.training.rollout import rollout_clips, save_rollouts
from pocket.training.run import DeadlineReached, RunContext, check_finite, learning_rate
from pocket.training.self_forcing import SelfForcing

MUON_FACTOR = 2.0  # Muon's learning rate over AdamW's
CAMERA_GAIN = 5.0
EMA_DECAY = 0.998
# Kernels of cross-attention, and on a GPU of all attention. A CPU's fused backward pass is slow.
KERNELS = {
    "cpu": [SDPBackend.MATH],
    "cuda": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
}
LOG_EVERY = 50  # steps
REPORTS_PER_STAGE = 2

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class DitTraining:
    """The state of a stage, which can be saved and resumed."""

    name: str
    stage: StageConfig
    model: WorldModel
    average: AveragedModel  # moving average of the weights, which ships
    optimizers: Optimizers
    self_forcing: SelfForcing | None
    step: int = 0

    @property
    def averaged_model(self) -> WorldModel:
        return cast(WorldModel, self.average.module)

    @classmethod
    def resume(cls, run: RunContext, name: str, *, seed: int) -> "DitTraining":
        """Resume from NAME.ckpt in the run's folder, or begin where the stage before ended.

        Raises FileNotFoundError if the stage before has no checkpoint.
        """
        torch.manual_seed(seed)
        stage = run.config.stages[name]
        model = WorldModel(run.config.model).to(run.device)
        silence_branches(model)
        checkpoint = load_checkpoint(run.folder / f"{name}.ckpt")
        if checkpoint is not None:
            model.load_state_dict(checkpoint["model"])
        elif stage.after is not None:
            before = load_checkpoint(run.folder / f"{stage.after}.ckpt")
            if before is None:
                path = run.folder / f"{stage.after}.ckpt"
                raise FileNotFoundError(f"{path}: stage {name} begins with these weights")
            model.load_state_dict(before["average"])
        self_forcing = None
        if stage.self_forcing:
            codec = load_codec(run.folder, device=run.device)
            self_forcing = SelfForcing(discriminator=Discriminator(run.device), codec=codec)
        training = cls(
            name=name,
            stage=stage,
            model=model,
            average=AveragedModel(model, multi_avg_fn=_move_average).requires_grad_(False),
            optimizers=Optimizers(model, list(model.blocks)),
            self_forcing=self_forcing,
        )
        if checkpoint is not None:
            training._load(checkpoint)
            torch.manual_seed(seed + training.step)
        return training

    def _load(self, checkpoint: dict[str, Any]) -> None:
        self.step = checkpoint["step"]
        self.averaged_model.load_state_dict(checkpoint["average"])
        self.average.n_averaged.fill_(self.step)
        self.optimizers.load(checkpoint["optimizers"])
        if self.self_forcing is not None:
            self.self_forcing.discriminator.load(checkpoint["discriminator"])

    def save(self, folder: Path) -> None:
        """Write NAME.ckpt. Its `average` is what the next stage begins with, and what ships."""
        checkpoint = {
            "model": self.model.state_dict(),
            "average": self.averaged_model.state_dict(),
            "optimizers": self.optimizers.state(),
            "step": self.step,
        }
        if self.self_forcing is not None:
            checkpoint["discriminator"] = self.self_forcing.discriminator.state()
        save_checkpoint(folder / f"{self.name}.ckpt", checkpoint)

    def backward(self, batch: TrainingBatch, random: Random) -> Tensor:
        """Accumulate the gradient of a batch and return its loss, without waiting for a GPU."""
        predict = partial(predict_flow, self.model)
        if self.self_forcing is not None:
            average = partial(predict_flow, self.averaged_model)
            return self.self_forcing.backward(predict, average, batch, random)
        loss = flow_loss(predict, batch, high_noise_share=self.stage.high_noise_share)
        loss.backward()
        return loss.detach()

    def update(self, rate: float) -> None:
        """Move the weights by their gradients, and the average towards the weights."""
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizers.step(rate, muon_factor=MUON_FACTOR)
        self.average.update_parameters(self.model)
        self.step += 1


def _move_average(averages: Any, weights: Any, num_averaged: Tensor | int) -> None:
    """Move the averages towards the weights, faster during the first steps."""
    share = max(1 - EMA_DECAY, 1 / (int(num_averaged) / 10 + 1))
    torch._foreach_lerp_(averages, weights, share)


def silence_branches(model: WorldModel) -> None:
    """Zero the output layers: no modulation, no camera scale and shift, no flow at the start.

    The inputs of the camera branches are amplified. A turn of a few degrees changes rays by a
    tenth, and without a gain the model ignored the camera for two thousand steps.
    """
    with torch.no_grad():
        model.camera_embedding.weight.mul_(CAMERA_GAIN)
    silent = [model.time_projection[-1], model.head.head]
    for block in model.blocks:
        silent += [block.camera.scale, block.camera.shift, block.cross_attn.o]  # type: ignore[union-attr, list-item]
    for layer in silent:
        assert isinstance(layer, nn.Linear)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def train_dit(
    run: RunContext, name: str, *, num_steps: int, seed: int, peak_rate: float | None = None
) -> None:
    """Train a stage up to `num_steps`, in NAME.ckpt. `peak_rate` replaces the stage's.

    Raises DeadlineReached, FloatingPointError for a loss that is not finite, and FileNotFoundError
    if the stage before has not begun.
    """
    training = DitTraining.resume(run, name, seed=seed)
    stage, first = training.stage, training.step
    if first >= num_steps:
        return
    dataset = load_latents(run, stage.size)
    table = PromptTable.of(dataset, run.config.model)
    held_out = rollout_clips(run.config.num_rollout_clips, **run.config.size)
    if run.compiles:
        for model in (training.model, training.averaged_model):
            _compile(list(model.blocks))
    size = sum(weight.numel() for weight in training.model.parameters()) / 1e6
    num_clips = len(dataset.latents)
    logger.info("%s: %.2f M parameters, %d clips, from step %d", name, size, num_clips, first)
    random = Random(seed + first)
    begin = saved = time.monotonic()
    losses = list[Tensor]()
    draw = partial(draw_batch, dataset, table)
    while training.step < num_steps:
        batch = draw(
            stage.num_clips * run.batch_factor, random, high_motion_share=stage.high_motion_share
        )
        rate = learning_rate(training.step, num_steps=num_steps, peak=peak_rate or stage.peak_rate)
        with run.autocast(), sdpa_kernel(KERNELS[run.device.type]):
            losses.append(training.backward(batch, random))
        training.update(rate)
        step, stop = training.step, run.deadline_passed
        last = step == num_steps
        saves = last or stop or time.monotonic() > saved + run.save_every_s
        if saves or step % LOG_EVERY == 0:
            seconds = (time.monotonic() - begin) / (step - first)
            _log_mean(name, step, losses, seconds)
        if saves:
            training.save(run.folder)
            saved = time.monotonic()
        if held_out and (last or step % math.ceil(num_steps / REPORTS_PER_STAGE) == 0):
            _report(run, training, held_out, draw(8, Random(0), high_motion_share=1.0))
        if stop and not last:
            raise DeadlineReached


def _log_mean(name: str, step: int, losses: list[Tensor], seconds: float) -> None:
    """Log the mean of the losses and clear them. Raises FloatingPointError if it is not finite."""
    mean = torch.stack(losses).mean().item()
    losses.clear()
    check_finite(name, step, mean)
    logger.info("%s %d loss %.4f %.3f s/step", name, step, mean, seconds)


def _report(
    run: RunContext, training: DitTraining, held_out: list[Clip], batch: TrainingBatch
) -> None:
    """Log the quality of rollouts and the gain of right poses, and write a grid of rollouts."""
    name, step = training.name, training.step
    plain = copy.deepcopy(training.averaged_model)  # not compiled: rollouts have other shapes
    path = run.folder / f"{name}_{step:05}.png"
    quality = save_rollouts(run, path, plain, held_out, size=training.stage.size)
    logger.info("%s %d: held-out scenes, %s dB by chunk", name, step, quality)
    gain = 100 * camera_ablation_gain(partial(predict_flow, plain), batch)
    logger.info("%s %d: right poses reduce the loss by %.1f %%", name, step, gain)


def _compile(blocks: Sequence[nn.Module]) -> None:
    """Compile all blocks. They share one compilation for each kind of batch."""
    torch._dynamo.config.recompile_limit = 8 * len(blocks)
    for block in blocks:
        block.compile(dynamic=False)
