"""Training of the pocket world's DiT: teacher forcing on encoded clips.

Shape letters: B clips, F latent frames of the sequence, h w latent pixels.
"""

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lingbot.config import POCKET, ModelConfig
from lingbot.model import WorldModel
from lingbot.pocket.latents import LatentBank, load_latents
from lingbot.pocket.rollout import held_out_clips, save_rollouts
from lingbot.pocket.run import Optimizers, learning_rate, load_checkpoint, save_checkpoint
from lingbot.pocket.teacher import TeacherMemory, camera_maps
from lingbot.text import PocketTextEncoder
from lingbot.weights import save_dit

MODEL = ModelConfig(
    dim=192, ffn_dim=576, freq_dim=128, num_heads=4, num_layers=5, text_dim=64, text_len=16
)
PEAK_RATE = 1.5e-3
MUON_FACTOR = 2.0  # its steps bear to be larger
LOWEST_LEVEL = 0.15  # before the shift: play ends at a quarter, and never sees less noise
CONTEXT_NOISE = 0.12  # the most that is mixed into the clean past
PROMPT_DROPOUT = 0.1
EMA = 0.998
LOG_EVERY, SAVE_EVERY, SHEET_EVERY = 50, 200, 600

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which chunks of a clip one training sequence is made of."""

    clean: tuple[int, ...]
    noisy: tuple[int, ...]
    num_clips: int


def draw_plan(random: Random) -> Plan:
    """Either a world's first window, or its sink and two chunks from later on.

    In the later part a chunk is only asked for where chunks before it are in sight.
    """
    if random.random() < 0.6:
        return Plan(clean=(0, 1, 2), noisy=(0, 1, 2, 3), num_clips=10)
    first = random.choice((2, 3))
    return Plan(clean=(0, first, first + 1), noisy=(first + 1, first + 2), num_clips=14)


def draw_gap(random: Random) -> int:
    """Latent frames, in whole chunks, that the later part is moved away from the sink by."""
    kind = random.random()
    if kind < 0.3:
        return 0
    return POCKET.chunk * random.randrange(20 if kind < 0.8 else 333)


def initialise(model: WorldModel) -> None:
    """Let every branch begin silent: no modulation, no camera, no flow."""
    silent = [model.time_projection[-1], model.head.head]
    for block in model.blocks:
        silent += [block.camera.scale, block.camera.shift, block.cross_attn.o]  # type: ignore[union-attr, list-item]
    for layer in silent:
        assert isinstance(layer, nn.Linear)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def flow_loss(
    model: WorldModel, bank: LatentBank, contexts: dict[str, Tensor], plan: Plan, random: Random
) -> Tensor:
    """Flow matching on a batch of clips: mean squared error of the noisy chunks' flow."""
    chunk = POCKET.chunk
    clips = torch.tensor([random.randrange(len(bank.latents)) for _ in range(plan.num_clips)])
    numbers = [*plan.clean, *plan.noisy]
    frames = torch.tensor([number * chunk + i for number in numbers for i in range(chunk)])
    x0 = bank.latents[clips][:, :, frames].float()
    num_clean = len(plan.clean) * chunk
    x, timestep, target = _noise(x0, num_clean)
    gap = draw_gap(random) if 1 not in numbers else 0
    positions = torch.where(frames >= chunk, frames + gap, frames)
    distinct, rows = bank.poses[clips][:, frames].unique(return_inverse=True)
    prompts = [
        "" if random.random() < PROMPT_DROPOUT else bank.prompts[clip] for clip in clips.tolist()
    ]
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        flow = model(
            x,
            condition=_condition(bank.conditions[clips].float(), frames),
            timestep=timestep,
            positions=positions,
            camera=camera_maps(model, bank.maps[distinct].float(), rows),
            text=model.embed_text(torch.stack([contexts[prompt] for prompt in prompts])),
            memory=TeacherMemory(chunk, plan.clean, plan.noisy),
        )
    return F.mse_loss(flow[:, :, num_clean:], target)


def _noise(x0: Tensor, num_clean: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents [B, 16, F, h, w] -> the sequence, its timesteps [B, F], the noisy part's flow."""
    B, _, num_frames = x0.shape[:3]
    noise = torch.randn_like(x0)
    shift, num_noisy = POCKET.schedule.shift, (num_frames - num_clean) // POCKET.chunk
    level = LOWEST_LEVEL + (1 - LOWEST_LEVEL) * torch.rand(B, num_noisy)
    noisy = (shift * level / (1 + (shift - 1) * level)).repeat_interleave(POCKET.chunk, dim=1)
    clean = (CONTEXT_NOISE * torch.rand(B, 1)).expand(-1, num_clean)
    sigma = torch.cat([clean, noisy], dim=1)[:, None, :, None, None]
    kept = torch.ones_like(sigma)
    kept[:, :, num_clean:] -= sigma[:, :, num_clean:]  # the past is blurred, not faded
    timestep = torch.cat([torch.zeros_like(clean), 1000 * noisy], dim=1)
    return kept * x0 + sigma * noise, timestep, (noise - x0)[:, :, num_clean:]


def _condition(latents: Tensor, frames: Tensor) -> Tensor:
    """Mask and image condition of the sequence, [B, 20, F, h, w], as in `FrameCodec`."""
    chunk = POCKET.chunk
    latents = latents[:, :, torch.where(frames < chunk, frames, chunk + frames % chunk)]
    mask = (frames == 0).float()[None, None, :, None, None].expand_as(latents[:, :4])
    return torch.cat([mask, latents], dim=1)


def encode_prompts(prompts: list[str]) -> dict[str, Tensor]:
    """Each distinct prompt's context, padded: [text_len, text_dim]. '' stands for none."""
    encoder = PocketTextEncoder(text_dim=MODEL.text_dim, text_len=MODEL.text_len)
    contexts = {prompt: encoder.encode(prompt) for prompt in {"", *prompts}}
    return {
        prompt: F.pad(context, (0, 0, 0, MODEL.text_len - len(context)))
        for prompt, context in contexts.items()
    }


@dataclass(slots=True)
class Training:
    """A run that can be cut off and resumed."""

    model: WorldModel
    average: WorldModel  # of the model's recent weights; this is what ships
    optimizers: Optimizers
    step: int = 0

    @classmethod
    def resume(cls, folder: Path, *, seed: int) -> "Training":
        """Go on from folder/dit.ckpt, or begin."""
        torch.manual_seed(seed)
        model, average = WorldModel(MODEL), WorldModel(MODEL)
        initialise(model)
        average.load_state_dict(model.state_dict())
        training = cls(model, average, Optimizers(model, list(model.blocks)))
        if checkpoint := load_checkpoint(folder / "dit.ckpt"):
            model.load_state_dict(checkpoint["model"])
            average.load_state_dict(checkpoint["average"])
            training.optimizers.load(checkpoint["optimizers"])
            training.step = checkpoint["step"]
            torch.manual_seed(seed + training.step)
        return training

    def save(self, folder: Path) -> None:
        checkpoint = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": self.optimizers.state(),
            "step": self.step,
        }
        save_checkpoint(folder / "dit.ckpt", checkpoint)
        save_dit(self.average, folder / "dit")

    def advance(self, loss: Tensor, rate: float) -> None:
        """Take one step down, and let the average follow, faster at the start."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizers.step(rate, muon_factor=MUON_FACTOR)
        share = max(1 - EMA, 1 / (self.step / 10 + 1))
        with torch.no_grad():
            weights = zip(self.average.parameters(), self.model.parameters(), strict=True)
            for mean, weight in weights:
                mean.lerp_(weight, share)
        self.step += 1


def train_dit(folder: Path, *, num_steps: int, seed: int) -> None:
    """Train to `num_steps` on folder/latents; the weights so far are always in folder/dit."""
    bank, held_out = load_latents(folder), held_out_clips()
    contexts = encode_prompts(bank.prompts)
    training = Training.resume(folder, seed=seed)
    model, first = training.model, training.step
    torch._dynamo.config.recompile_limit = 4 * MODEL.num_layers  # two plans, and to spare
    for block in model.blocks:
        block.compile(dynamic=False)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    logger.info("dit %.2f M parameters, %d clips, from step %d", size, len(bank.latents), first)
    random = Random(seed + first)
    begin, losses = time.monotonic(), list[float]()
    for step in range(first, num_steps):
        loss = flow_loss(model, bank, contexts, draw_plan(random), random)
        training.advance(loss, learning_rate(step, num_steps=num_steps, peak=PEAK_RATE))
        losses.append(loss.item())
        if training.step % LOG_EVERY == 0:
            mean = sum(losses[-LOG_EVERY:]) / LOG_EVERY
            spent = (time.monotonic() - begin) / (training.step - first)
            logger.info("dit %d loss %.4f %.2f s/step", training.step, mean, spent)
            assert math.isfinite(mean), "the loss is no number"
        if training.step % SAVE_EVERY == 0 or training.step == num_steps:
            training.save(folder)
        if training.step % SHEET_EVERY == 0 or training.step == num_steps:
            sheet = folder / f"dit_{training.step:05}.png"
            quality = save_rollouts(sheet, training.average, held_out, folder=folder)
            logger.info("dit %d: unseen scenes, %s dB by chunk", training.step, quality)
