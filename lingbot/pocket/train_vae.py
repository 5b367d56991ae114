"""Training of the pocket world's autoencoder on rendered clips."""

import logging
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lingbot.pocket.data import mirror_frames, shard_paths
from lingbot.pocket.run import (
    Optimizers,
    learning_rate,
    load_checkpoint,
    save_checkpoint,
    save_sheet,
)
from lingbot.tiny_vae import DecoderState, MemoryBlock, TinyVAE, repeat_first

ENCODER_CHANNELS = (16, 32, 48, 64)
DECODER_CHANNELS = (96, 64, 32, 16)
PEAK_RATE = 2e-3
BATCHES = ((6, 9), (6, 9), (3, 17))  # clips and their frames, drawn anew at each step
NOISE = 0.1  # of the latents' deviation: the decoder has to forgive the DiT's small errors
RESTRAINT = 1e-4  # weight of the latents' squares
LATENT_GAIN = 4.0  # at first, so that latents begin at about unit size
LOG_EVERY, SAVE_EVERY = 20, 100

logger = logging.getLogger(__name__)


def train_vae(folder: Path, *, num_steps: int, seed: int, decoder_only: bool = False) -> None:
    """Train to `num_steps` on folder/bank, then write folder/tiny_vae.safetensors.

    `decoder_only` goes on from that file and leaves the encoder, and so all latents, as they are.
    """
    torch.manual_seed(seed)
    path = folder / "tiny_vae.safetensors"
    vae, statistics = _load(path) if decoder_only else (_begin(), None)
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    vae.encoder.requires_grad_(not decoder_only)
    optimizers, first = Optimizers(vae, _hidden_layers(vae, decoder_only=decoder_only)), 0
    saved = folder / ("decoder.ckpt" if decoder_only else "vae.ckpt")
    if checkpoint := load_checkpoint(saved):
        vae.load_state_dict(checkpoint["model"])
        optimizers.load(checkpoint["optimizers"])
        first = checkpoint["step"]
    generator = torch.Generator().manual_seed(seed + first)
    clips = _load_frames(folder)
    begin = time.monotonic()
    for step in range(first, num_steps):
        video = _draw(clips, generator)
        loss, error = _losses(vae, video)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizers.step(learning_rate(step, num_steps=num_steps, peak=PEAK_RATE))
        if step % LOG_EVERY == 0:
            quality, spent = -10 * math.log10(error.item()), time.monotonic() - begin
            logger.info(
                "%s %d loss %.4f %.2f dB %.0f s", saved.stem, step, loss.item(), quality, spent
            )
        if (step + 1) % SAVE_EVERY == 0:
            state = {"model": vae.state_dict(), "optimizers": optimizers.state()}
            save_checkpoint(saved, {**state, "step": step + 1})
            _save_pair(vae, video, saved.with_suffix(".png"))
    vae.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    save_file({**vae.state_dict(), **(statistics or _measure(vae, clips))}, path)


def _begin() -> TinyVAE:
    vae = TinyVAE(encoder_channels=ENCODER_CHANNELS, decoder_channels=DECODER_CHANNELS)
    initialise(vae)
    return vae


def _load(path: Path) -> tuple[TinyVAE, dict[str, Tensor]]:
    tensors = load_file(path)
    statistics = {name: tensors.pop(name) for name in ("latents_mean", "latents_std")}
    return TinyVAE.from_state_dict(tensors), statistics


def _hidden_layers(vae: TinyVAE, *, decoder_only: bool) -> list[nn.Module]:
    """All layers that are trained, but the first and the last of encoder and decoder."""
    encoder, decoder = list(vae.encoder)[1:-1], list(vae.decoder)[2:-1]
    return decoder if decoder_only else [*encoder, *decoder]


def initialise(vae: TinyVAE) -> None:
    """Keep the signal's size through the layers; memory blocks begin by passing their input on."""
    latent, picture = vae.encoder[-1], vae.decoder[-1]
    for layer in vae.modules():
        if isinstance(layer, nn.Conv2d):
            linear = layer.kernel_size == (1, 1) or layer in (latent, picture)
            gain = 1.0 if linear else math.sqrt(2)
            if layer is latent:
                gain = LATENT_GAIN
            fan_in = layer.weight[0].numel()
            nn.init.normal_(layer.weight, std=gain / math.sqrt(fan_in))
            if layer.bias is not None:
                nn.init.constant_(layer.bias, 0.5 if layer is picture else 0.0)
    for block in vae.modules():
        if isinstance(block, MemoryBlock):
            last = block.conv[-1]
            assert isinstance(last, nn.Conv2d)
            nn.init.zeros_(last.weight)


def to_video(frames: Tensor) -> Tensor:
    """uint8 [B, F, H, W, 3] -> float [B, F, 3, H, W] in 0..1."""
    return frames.permute(0, 1, 4, 2, 3).float() / 255


@torch.inference_mode()
def _measure(vae: TinyVAE, clips: list[Tensor]) -> dict[str, Tensor]:
    """Mean and deviation of the latents' channels."""
    some = torch.cat([shard[:2] for shard in clips])
    latents = torch.cat([vae.encode(repeat_first(to_video(part))) for part in some.split(5)])
    std, mean = torch.std_mean(latents, dim=(0, 1, 3, 4))
    logger.info("latents' deviation %s", [round(value, 2) for value in std.tolist()])
    return {"latents_mean": mean, "latents_std": std}


def _load_frames(folder: Path) -> list[Tensor]:
    return [torch.load(path, mmap=True)["frames"] for path in shard_paths(folder / "bank")]


def _draw(clips: list[Tensor], generator: torch.Generator) -> Tensor:
    """A batch of short clips that begin anywhere, half of them mirrored: [B, F, 3, H, W]."""

    def draw(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    num_clips, num_frames = BATCHES[draw(len(BATCHES))]
    batch = []
    for _ in range(num_clips):
        shard = clips[draw(len(clips))]
        start = draw(shard.shape[1] - num_frames + 1)
        frames = shard[draw(len(shard)), start : start + num_frames]
        batch.append(mirror_frames(frames) if draw(2) else frames)
    return to_video(torch.stack(batch))


def _losses(vae: TinyVAE, video: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the mean squared error alone."""
    with torch.autocast("cpu", torch.bfloat16):
        latents = vae.encode(repeat_first(video)).float()
        noisy = latents + NOISE * latents.detach().std() * torch.randn_like(latents)
        decoded = vae.decode(noisy, DecoderState(), clamp=False).float()
    error = F.mse_loss(decoded, video)
    loss = F.l1_loss(decoded, video) + 2 * error + RESTRAINT * latents.square().mean()
    return loss, F.mse_loss(decoded.detach().clamp(0, 1), video)


@torch.inference_mode()
def _save_pair(vae: TinyVAE, video: Tensor, path: Path) -> None:
    decoded = vae.decode(vae.encode(repeat_first(video[:4])), DecoderState())
    save_sheet(path, [clip for pair in zip(video[:4], decoded, strict=True) for clip in pair])
