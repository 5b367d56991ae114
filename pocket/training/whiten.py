"""Whitening of the autoencoder: latent channels become uncorrelated and equally strong.

A few-step sampler stops at a rather high noise level. Content in weak directions of the latent
space stays below that noise, so the model generates its mean: a blur. After training, a matrix
between encoder and decoder gives all directions the same variance. It is merged into their
convolutions.

Tested in `tests/pocket/test_train.py`.
"""

import logging
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lingbot.vae.tiny import TinyVAE, repeat_first
from pocket.training.checkpoint import save_tensors
from pocket.training.clips import to_video
from pocket.training.config import VaeConfig
from pocket.training.dataset import DATASET, shard_paths
from pocket.training.run import RunContext

DEVIATION = 0.35  # of whitened channels: small, so that the decoder's clamp is nearly linear
MIN_VARIANCE = 1e-3  # share of the mean variance up to which weak directions are amplified

logger = logging.getLogger(__name__)


def whiten_vae(run: RunContext) -> None:
    """Write whitened.safetensors from vae.safetensors.

    The decoder should be trained further. Its zero padding and its clamp get other values than
    before, which costs some dB until then.
    """
    vae = TinyVAE.from_state_dict(load_file(run.folder / "vae.safetensors")).to(run.device)
    whiten(vae, shard_paths(run.folder / DATASET), run.config.vae)
    vae.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    statistics = {"latents_mean": torch.zeros(16), "latents_std": torch.full((16,), DEVIATION)}
    save_tensors(run.folder / "whitened.safetensors", {**vae.state_dict(), **statistics})


def whiten(vae: TinyVAE, shards: list[Path], config: VaeConfig) -> None:
    """Make the latents of these clips uncorrelated, with mean 0 and deviation DEVIATION."""
    mean, covariance = measure_latents(vae, shards, config)
    variances, directions = torch.linalg.eigh(covariance)
    logger.info("latent variances %s", [round(value, 3) for value in variances.tolist()])
    clamped = variances.clamp(min=MIN_VARIANCE * variances.mean())
    # The matrix is symmetric, so each channel stays as close as possible to the old one.
    matrix = DEVIATION * (directions * clamped.rsqrt()) @ directions.T
    tensors = vae.state_dict()
    merge_affine(tensors, matrix.float(), -(matrix @ mean).float())
    vae.load_state_dict(tensors)


@torch.inference_mode()
def measure_latents(vae: TinyVAE, shards: list[Path], config: VaeConfig) -> tuple[Tensor, Tensor]:
    """Return mean [16] and covariance [16, 16] of the latent channels over clips, float64."""
    device = next(vae.parameters()).device
    latents = []
    for shard in shards[: config.whitened_shards]:
        frames = torch.load(shard, mmap=True)["frames"][:2, : config.whitened_frames].to(device)
        latents.append(vae.encode(repeat_first(to_video(frames))).transpose(1, 2))
    channels = torch.cat(latents).transpose(0, 1).flatten(1).double()  # [16, all positions]
    return channels.mean(dim=1), torch.cov(channels)


def merge_affine(tensors: dict[str, Tensor], matrix: Tensor, offset: Tensor) -> None:
    """Make the encoder return `matrix @ latents + offset`, and the decoder invert it."""
    last = max(int(name.split(".")[1]) for name in tensors if name.startswith("encoder."))
    weight, bias = f"encoder.{last}.weight", f"encoder.{last}.bias"
    tensors[weight] = torch.einsum("dc,c...->d...", matrix, tensors[weight])
    tensors[bias] = matrix @ tensors[bias] + offset
    inverse = torch.linalg.inv(matrix)
    first = tensors["decoder.1.weight"]
    tensors["decoder.1.weight"] = torch.einsum("ockl,cd->odkl", first, inverse).contiguous()
    tensors["decoder.1.bias"] -= torch.einsum("ockl,c->o", first, inverse @ offset)
