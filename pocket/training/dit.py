"""Training of the pocket world's DiT, in stages: on small pictures, on full ones, on its own past.

The first two are teacher-forced flow matching with a noisy past; for the third see `self_forcing`.

Shape letters as in `batch`.
"""

import copy
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lingbot.config import SCHEDULE_POCKET, ModelConfig
from lingbot.dit.model import WorldModel
from pocket.training.batch import Batch, Words, draw_batch, predict_flow
from pocket.training.critic import Critic
from pocket.training.data import Clip
from pocket.training.latents import load_codec, load_latents
from pocket.training.rollout import held_out_clips, save_rollouts
from pocket.training.run import (
    SAVE_EVERY,
    Machine,
    Optimizers,
    OutOfTime,
    check_finite,
    learning_rate,
    load_checkpoint,
    save_checkpoint,
)
from pocket.training.self_forcing import LEVELS, SelfForcing

MODEL = ModelConfig(
    dim=256, ffn_dim=768, freq_dim=128, num_heads=4, num_layers=5, text_dim=64, text_len=16
)
MUON_FACTOR = 2.0  # its steps bear to be larger
CAMERA_GAIN = 5.0
LOWEST_LEVEL = 0.1  # before the shift: play never sees less noise
CONTEXT_NOISE = 0.2  # the most that is mixed into the clean past
EMA = 0.998
KERNELS = {  # of cross-attention, and on a GPU of all: a CPU's fused backward pass is the slow one
    "cpu": [SDPBackend.MATH],
    "cuda": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
}
LOG_EVERY, SHEETS = 50, 2  # steps between lines of the log; sheets of a stage

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stage:
    size: str  # of its pictures, one of latents.SIZES
    num_clips: int  # of a batch
    peak_rate: float
    after: str | None  # the stage whose weights it begins with
    lively: float = 0.0  # share of the clips drawn from the lively ones: there the camera shows
    high_noise: float = 0.0  # share of the two highest levels: there the picture itself tells least
    self_forcing: bool = False


STAGES = {
    "small": Stage("small", num_clips=8, peak_rate=1.5e-3, after=None, lively=0.8, high_noise=0.7),
    "full": Stage("full", num_clips=2, peak_rate=1e-3, after="small", lively=0.3, high_noise=0.2),
    "self": Stage("full", num_clips=2, peak_rate=3e-4, after="full", self_forcing=True),
}


def initialise(model: WorldModel) -> None:
    """Let every branch begin silent: no modulation, no camera's scale and shift, no flow.

    What the camera's branches are made of is loud: a turn of a few degrees changes rays by a tenth,
    and without a gain two thousand steps went by before the model took notice.
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


def flow_loss(model: WorldModel, batch: Batch, *, high_noise: float = 0.0) -> Tensor:
    """Flow matching: mean squared error of the noisy chunks' flow, from a past that is blurred.

    `high_noise` is the share of the levels that are the two highest.
    """
    sigma = draw_sigma(*batch.truth.shape[:2])
    highest = torch.tensor(LEVELS)[torch.randint(2, sigma.shape)]
    sigma = torch.where(torch.rand(sigma.shape) < high_noise, highest, sigma).to(batch.x0.device)
    noise = torch.randn_like(batch.truth)
    flow = predict_flow(model, batch, noised(batch, batch.truth, noise, sigma), sigma)
    return F.mse_loss(flow, noise - batch.truth)


def draw_sigma(*shape: int) -> Tensor:
    """Noise levels: half are those that play visits, half anything between them."""
    level = LOWEST_LEVEL + (1 - LOWEST_LEVEL) * torch.rand(shape)
    shift = SCHEDULE_POCKET.shift
    between = shift * level / (1 + (shift - 1) * level)
    visited = torch.tensor(LEVELS)[torch.randint(len(LEVELS), shape)]
    return torch.where(torch.rand(shape) < 0.5, visited, between)


def noised(batch: Batch, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The sequence [B, K, 16, F, h, w]: its past, blurred and not faded, then noisy chunks."""
    clean = batch.x0[:, : batch.num_clean]
    blur = CONTEXT_NOISE * torch.rand(len(clean), 1, 1, 1, 1, 1, device=clean.device) ** 2
    level = sigma[..., None, None, None, None]
    return torch.cat(
        [clean + blur * torch.randn_like(clean), (1 - level) * x0 + level * noise], dim=1
    )


@torch.no_grad()
def camera_worth(model: WorldModel, batch: Batch) -> float:
    """The share of the loss that right poses save over those of other clips, at high noise."""
    sigma = torch.full(batch.truth.shape[:2], LEVELS[1], device=batch.x0.device)
    noise = torch.randn_like(batch.truth)
    x = noised(batch, batch.truth, noise, sigma)
    wrong = replace(batch, poses=batch.poses.roll(1, dims=0))
    losses = [
        F.mse_loss(predict_flow(model, told, x, sigma), noise - batch.truth).item()
        for told in (batch, wrong)
    ]
    return 1 - losses[0] / losses[1]


@dataclass(slots=True)
class Training:
    """A stage's run, which can be cut off and resumed."""

    name: str
    model: WorldModel
    average: WorldModel  # of the model's recent weights; this is what ships
    optimizers: Optimizers
    self_forcing: SelfForcing | None  # of stages that do so
    step: int = 0

    @classmethod
    def resume(cls, folder: Path, name: str, *, seed: int, device: torch.device) -> "Training":
        """Go on from folder/NAME.ckpt, or begin where the stage before it ended."""
        torch.manual_seed(seed)
        model, average = WorldModel(MODEL).to(device), WorldModel(MODEL).to(device)
        initialise(model)
        stage = STAGES[name]
        own = load_checkpoint(folder / f"{name}.ckpt")
        if stage.after is not None and own is None:
            before = load_checkpoint(folder / f"{stage.after}.ckpt")
            if before is None:
                raise FileNotFoundError(f"{folder / stage.after}.ckpt: stage {name} goes on there")
            model.load_state_dict(before["average"])
        average.load_state_dict(model.state_dict())
        average.requires_grad_(False)
        optimizers = Optimizers(model, list(model.blocks))
        self_forcing = None
        if stage.self_forcing:
            self_forcing = SelfForcing(Critic(device), load_codec(folder, device=device))
        training = cls(name, model, average, optimizers, self_forcing)
        if own is not None:
            model.load_state_dict(own["model"])
            average.load_state_dict(own["average"])
            optimizers.load(own["optimizers"])
            if self_forcing is not None:
                self_forcing.critic.load(own["critic"])
            training.step = own["step"]
            torch.manual_seed(seed + training.step)
        return training

    def learn(self, batch: Batch, random: Random) -> Tensor:
        """Leave the gradient of a batch, and give its loss, which a GPU may still be computing."""
        if self.self_forcing is not None:
            return self.self_forcing.learn(self.model, self.average, batch, random)
        loss = flow_loss(self.model, batch, high_noise=STAGES[self.name].high_noise)
        loss.backward()
        return loss.detach()

    def save(self, folder: Path) -> None:
        checkpoint = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": self.optimizers.state(),
            "step": self.step,
        }
        if self.self_forcing is not None:
            checkpoint["critic"] = self.self_forcing.critic.state()
        save_checkpoint(folder / f"{self.name}.ckpt", checkpoint)

    def advance(self, rate: float) -> None:
        """Take one step down, and let the average follow, faster at the start."""
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizers.step(rate, muon_factor=MUON_FACTOR)
        share = max(1 - EMA, 1 / (self.step / 10 + 1))
        with torch.no_grad():
            weights = zip(self.average.parameters(), self.model.parameters(), strict=True)
            for mean, weight in weights:
                mean.lerp_(weight, share)
        self.step += 1


def train_dit(
    folder: Path,
    machine: Machine,
    name: str,
    *,
    num_steps: int,
    seed: int,
    peak_rate: float | None = None,
) -> None:
    """Train one of STAGES to `num_steps`, in folder/NAME.ckpt; `average` there is what counts.

    `peak_rate` is used instead of the stage's.
    """
    stage = STAGES[name]
    peak = peak_rate or stage.peak_rate
    training = Training.resume(folder, name, seed=seed, device=machine.device)
    model, first = training.model, training.step
    if first >= num_steps:
        return
    bank = load_latents(folder, stage.size, device=machine.device)
    words, held_out = Words.of(bank, MODEL), held_out_clips()
    for network in (model, training.average):
        if machine.compiles:
            _compile(list(network.blocks))
    size = sum(p.numel() for p in model.parameters()) / 1e6
    logger.info("%s: %.2f M parameters, %d clips, from %d", name, size, len(bank.latents), first)
    kernels = KERNELS[machine.device.type]
    random = Random(seed + first)
    begin = saved = time.monotonic()
    losses = list[Tensor]()
    for step in range(first, num_steps):
        num_clips = stage.num_clips * machine.batch_factor
        batch = draw_batch(bank, words, num_clips, random, lively=stage.lively)
        with machine.autocast(), sdpa_kernel(kernels):
            losses.append(training.learn(batch, random))
        training.advance(learning_rate(step, num_steps=num_steps, peak=peak))
        last, stop = training.step == num_steps, machine.out_of_time
        saves = last or stop or time.monotonic() > saved + SAVE_EVERY
        if saves or training.step % LOG_EVERY == 0:
            mean = torch.stack(losses).mean().item()
            losses.clear()
            check_finite(name, training.step, mean)
            spent = (time.monotonic() - begin) / (training.step - first)
            logger.info("%s %d loss %.4f %.3f s/step", name, training.step, mean, spent)
        if saves:
            training.save(folder)
            saved = time.monotonic()
        if training.step % math.ceil(num_steps / SHEETS) == 0 or last:
            told = draw_batch(bank, words, 8, Random(0), lively=1.0)
            _report(training, folder, held_out, told)
        if stop and not last:
            raise OutOfTime


def _report(training: Training, folder: Path, held_out: list[Clip], told: Batch) -> None:
    """A sheet of rollouts, their quality, and whether the camera is heeded."""
    name, step, size = training.name, training.step, STAGES[training.name].size
    plain = copy.deepcopy(training.average)  # not compiled: play has other shapes
    sheet = folder / f"{name}_{step:05}.png"
    quality = save_rollouts(sheet, plain, held_out, folder=folder, size=size)
    logger.info("%s %d: unseen scenes, %s dB by chunk", name, step, quality)
    worth = 100 * camera_worth(plain, told)
    logger.info("%s %d: right poses save %.1f %%", name, step, worth)


def _compile(blocks: Sequence[nn.Module]) -> None:
    """One compilation serves all blocks; each kind of batch wants one of its own."""
    torch._dynamo.config.recompile_limit = 8 * len(blocks)
    for block in blocks:
        block.compile(dynamic=False)
