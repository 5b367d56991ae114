"""Makes the autoencoder's latent channels uncorrelated and equally strong.

A few-step sampler stops at a rather high noise level. What is stored in weak directions of the
latent space stays below that noise and comes out as its mean: a blur. After training, the
directions are evened out by a matrix between encoder and decoder, folded into their convolutions.
"""

import logging
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lingbot.vae.tiny import TinyVAE, repeat_first
from pocket.training.data import shard_paths, to_video
from pocket.training.run import save_tensors

DEVIATION = 0.35  # of the whitened channels: small, so that the decoder's clamp is nearly linear
MEASURED_SHARDS, MEASURED_FRAMES = 16, 33  # of two clips of each
WEAKEST = 1e-3  # share of the mean variance below which a direction is not strengthened further

logger = logging.getLogger(__name__)


def whiten_vae(folder: Path, device: torch.device) -> None:
    """Write folder/whitened.safetensors from folder/vae.safetensors.

    The decoder should be trained on after it: its zero padding and the clamp see other numbers than
    before, which costs some dB until then.
    """
    vae = TinyVAE.from_state_dict(load_file(folder / "vae.safetensors")).to(device)
    whiten(vae, shard_paths(folder / "bank"))
    vae.to(device="cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    statistics = {"latents_mean": torch.zeros(16), "latents_std": torch.full((16,), DEVIATION)}
    save_tensors(folder / "whitened.safetensors", {**vae.state_dict(), **statistics})


def whiten(vae: TinyVAE, shards: list[Path]) -> None:
    """Let the latents of these clips become uncorrelated, with mean 0 and deviation DEVIATION."""
    mean, covariance = measure_latents(vae, shards)
    variances, directions = torch.linalg.eigh(covariance)
    logger.info("latents' variances %s", [round(value, 3) for value in variances.tolist()])
    even = variances.clamp(min=WEAKEST * variances.mean())
    # Symmetric, so that each channel stays as close as it can to what it was.
    matrix = DEVIATION * (directions * even.rsqrt()) @ directions.T
    tensors = vae.state_dict()
    fold(tensors, matrix.float(), -(matrix @ mean).float())
    vae.load_state_dict(tensors)


@torch.inference_mode()
def measure_latents(vae: TinyVAE, shards: list[Path]) -> tuple[Tensor, Tensor]:
    """Mean [16] and covariance [16, 16] of the channels over some clips, float64."""
    device = next(vae.parameters()).device
    latents = []
    for shard in shards[:MEASURED_SHARDS]:
        frames = torch.load(shard, mmap=True)["frames"][:2, :MEASURED_FRAMES].to(device)
        latents.append(vae.encode(repeat_first(to_video(frames))).transpose(1, 2))
    channels = torch.cat(latents).transpose(0, 1).flatten(1).double()  # [16, everything]
    return channels.mean(dim=1), torch.cov(channels)


def fold(tensors: dict[str, Tensor], matrix: Tensor, offset: Tensor) -> None:
    """Let latents become ``matrix @ latents + offset``, and let the decoder undo it."""
    last = max(int(name.split(".")[1]) for name in tensors if name.startswith("encoder."))
    weight, bias = f"encoder.{last}.weight", f"encoder.{last}.bias"
    tensors[weight] = torch.einsum("dc,c...->d...", matrix, tensors[weight])
    tensors[bias] = matrix @ tensors[bias] + offset
    inverse = torch.linalg.inv(matrix)
    first = tensors["decoder.1.weight"]
    tensors["decoder.1.weight"] = torch.einsum("ockl,cd->odkl", first, inverse).contiguous()
    tensors["decoder.1.bias"] -= torch.einsum("ockl,c->o", first, inverse @ offset)
