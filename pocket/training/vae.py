"""Training of the pocket world's autoencoder on rendered clips.

Tested in `tests/pocket/test_train.py`.
"""

import logging
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from lingbot.vae.tiny import DecoderState, TinyVAE, repeat_first
from pocket.renderer.render import FrameSize
from pocket.training.checkpoint import load_checkpoint, save_checkpoint, save_tensors
from pocket.training.clips import mirror_frames, resize, to_video
from pocket.training.dataset import DATASET, ClipDataset, shard_paths
from pocket.training.local_contrast import local_contrast
from pocket.training.optimizer import Optimizers
from pocket.training.run import (
    DeadlineReached,
    RunContext,
    check_finite,
    learning_rate,
    save_grid,
)
from pocket.training.vae_init import init_as_pyramid
from pocket.training.whiten import whiten

PEAK_RATES = {"vae": 7e-4, "decoder": 2e-4}
DECAY = 0.6  # share of the run: large steps make colours fluctuate
FROZEN_SHARE = 0.1  # of clips: one frame repeated
WHOLE_FRAME_SHARE = 0.25  # of batches: whole frames at the crop's size, as in the stage `small`
LATENT_NOISE = 0.1  # at most, times the latents' deviation; the decoder tolerates the DiT's errors
# Weights of the loss terms; the mean absolute error has weight 1.
GRADIENT_WEIGHT = 3.0  # errors of differences between neighbouring pixels
FLICKER_WEIGHT = 2.0  # errors of differences between frames
COLOUR_WEIGHT = 1.0  # errors of the neighbourhoods' mean colours, which other terms hardly see
CONTRAST_WEIGHT = 30.0  # errors of local contrast, in the decoder's training
LATENT_WEIGHT = 1e-4  # squares of the latents
MIN_CONTRAST = 0.003  # less than one grey level
NEIGHBOURHOOD = 8  # pixels along each axis
WHITENED_AT = (0.15, 0.4)  # of the run; from then on, noise affects all latent channels equally
LOG_EVERY = 20  # steps

logger = logging.getLogger(__name__)

_local_contrast = partial(local_contrast, neighbourhood=NEIGHBOURHOOD, minimum=MIN_CONTRAST)


def train_vae(run: RunContext, *, num_steps: int, seed: int) -> None:
    """Train on the run's dataset, and write vae.safetensors. Raises DeadlineReached."""
    torch.manual_seed(seed)
    config = run.config.vae
    vae = TinyVAE(
        encoder_channels=config.encoder_channels, decoder_channels=config.decoder_channels
    )
    init_as_pyramid(vae)
    hidden = [*list(vae.encoder)[1:-1], *list(vae.decoder)[2:-1]]
    _train(run, vae, hidden, name="vae", num_steps=num_steps, seed=seed)
    save_tensors(run.folder / "vae.safetensors", vae.state_dict())


def train_decoder(run: RunContext, *, num_steps: int, seed: int) -> None:
    """Train the decoder of whitened.safetensors further, and write tiny_vae.safetensors.

    The encoder does not change, so neither do latents. The loss of local contrast penalises blur.
    The decoder should draw an edge even if a latent does not determine its place.

    Raises DeadlineReached.
    """
    tensors = load_file(run.folder / "whitened.safetensors")
    statistics = {name: tensors.pop(name) for name in ("latents_mean", "latents_std")}
    vae = TinyVAE.from_state_dict(tensors)
    vae.encoder.requires_grad_(False)
    hidden = list(vae.decoder)[2:-1]
    _train(run, vae, hidden, name="decoder", num_steps=num_steps, seed=seed)
    save_tensors(run.folder / "tiny_vae.safetensors", {**vae.state_dict(), **statistics})


def _train(
    run: RunContext, vae: TinyVAE, hidden: list[nn.Module], *, name: str, num_steps: int, seed: int
) -> None:
    """Train up to `num_steps`. Muon trains the layers `hidden`, without the first and the last."""
    path = run.folder / f"{name}.ckpt"
    vae.to(device=run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizers, first = Optimizers(vae, hidden), 0
    whitenings = [int(share * num_steps) for share in WHITENED_AT] if name == "vae" else []
    if checkpoint := load_checkpoint(path):
        vae.load_state_dict(checkpoint["model"])
        optimizers.load(checkpoint["optimizers"])
        first = checkpoint["step"]
    torch.manual_seed(seed + first)
    random = torch.Generator().manual_seed(seed + first)
    dataset = ClipDataset(run.folder / DATASET, run.device)
    begin = saved = time.monotonic()
    for step in range(first, num_steps):
        if step in whitenings:
            whiten(vae, shard_paths(run.folder / DATASET), run.config.vae)
            optimizers = Optimizers(vae, hidden)
        video = _draw_batch(run, dataset.shards, random)
        decoded, loss, error = _losses(vae, video, run)
        if name == "decoder":
            contrasts = _local_contrast(decoded), _local_contrast(video)
            loss = loss + CONTRAST_WEIGHT * F.l1_loss(*contrasts)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        rate = learning_rate(step, num_steps=num_steps, peak=PEAK_RATES[name], decay=DECAY)
        optimizers.step(rate)
        if step % LOG_EVERY == 0:
            quality, elapsed = -10 * math.log10(error.item()), time.monotonic() - begin
            logger.info("%s %d loss %.4f %.2f dB %.1f s", name, step, loss.item(), quality, elapsed)
            dataset.refresh()
        stop, last = run.deadline_passed, step + 1 == num_steps
        if stop or last or time.monotonic() > saved + run.save_every_s:
            check_finite(name, step, error.item())
            state = {"model": vae.state_dict(), "optimizers": optimizers.state(), "step": step + 1}
            save_checkpoint(path, state)
            _save_pairs(vae, video, path.with_suffix(".png"))
            saved = time.monotonic()
        if stop:
            raise DeadlineReached
    vae.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _draw_batch(run: RunContext, shards: list[Tensor], generator: torch.Generator) -> Tensor:
    """Draw short clips, half of them mirrored: [B, F, 3, rows, columns] of the run's small size."""

    def draw(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    batches, size = run.config.vae.batches, run.config.small_size
    num_clips, num_frames = batches[draw(len(batches))]
    whole_frames = draw(1000) < 1000 * WHOLE_FRAME_SHARE
    clips = []
    for _ in range(num_clips * run.batch_factor):
        shard = shards[draw(len(shards))]
        start = draw(shard.shape[1] - num_frames + 1)
        frames = shard[draw(len(shard)), start : start + num_frames]
        if not whole_frames:
            frames = _crop(frames, size, draw)
        if draw(1000) < 1000 * FROZEN_SHARE:
            frames = frames[:1].expand_as(frames)
        clips.append(mirror_frames(frames) if draw(2) else frames)
    return resize(to_video(torch.stack(clips)), size)


def _crop(frames: Tensor, size: FrameSize, draw: Callable[[int], int]) -> Tensor:
    """Cut frames [F, H, W, 3] to `size` at a drawn place."""
    rows, columns = frames.shape[1:3]
    top = draw(rows - size["height"] + 1)
    left = draw(columns - size["width"] + 1)
    return frames[:, top : top + size["height"], left : left + size["width"]]


def _losses(vae: TinyVAE, video: Tensor, run: RunContext) -> tuple[Tensor, Tensor, Tensor]:
    """Return the decoded video, its loss, and its mean squared error alone."""
    with run.autocast():
        latents = vae.encode(repeat_first(video)).float()
        # The level varies, because noise also limits the information that a latent can hold.
        level = LATENT_NOISE * torch.rand(len(latents), 1, 1, 1, 1, device=video.device)
        noisy = latents + level * latents.detach().std() * torch.randn_like(latents)
        decoded = vae.decode(noisy, DecoderState(), clamp=False).float()
    error = decoded - video
    gradients = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    square = error.square().mean()
    loss = error.abs().mean() + 2 * square + GRADIENT_WEIGHT * gradients
    loss = loss + FLICKER_WEIGHT * error.diff(dim=1).abs().mean()
    colours = F.avg_pool2d(error.flatten(0, 1), NEIGHBOURHOOD).abs().mean()
    loss = loss + COLOUR_WEIGHT * colours + LATENT_WEIGHT * latents.square().mean()
    return decoded, loss, F.mse_loss(decoded.detach().clamp(0, 1), video)


@torch.inference_mode()
def _save_pairs(vae: TinyVAE, video: Tensor, path: Path) -> None:
    """Write a grid of clips, each above its reconstruction."""
    decoded = vae.decode(vae.encode(repeat_first(video[:4])), DecoderState())
    save_grid(path, [clip.cpu() for pair in zip(video[:4], decoded, strict=True) for clip in pair])
