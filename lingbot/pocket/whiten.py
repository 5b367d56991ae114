"""Makes the autoencoder's latent channels uncorrelated and equally strong.

A few-step sampler stops at a rather high noise level. What is stored in weak directions of the
latent space stays below that noise and comes out as its mean: a blur. After training, the
directions are evened out by a matrix between encoder and decoder, folded into their convolutions.
"""

import logging
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lingbot.pocket.data import shard_paths
from lingbot.pocket.train_vae import to_video
from lingbot.tiny_vae import TinyVAE, repeat_first

DEVIATION = 0.35  # of the whitened channels: small, so that the decoder's clamp is nearly linear
WEAKEST = 1e-3  # share of the mean variance below which a direction is not strengthened further

logger = logging.getLogger(__name__)


def whiten_vae(folder: Path) -> None:
    """Rewrite folder/tiny_vae.safetensors; the decoder should be trained on for a while after it.

    Zero padding and the clamp see other numbers than before, which costs some dB until then.
    """
    path = folder / "tiny_vae.safetensors"
    tensors = load_file(path)
    del tensors["latents_mean"], tensors["latents_std"]
    mean, covariance = measure_latents(TinyVAE.from_state_dict(tensors).eval(), folder)
    variances, directions = torch.linalg.eigh(covariance)
    logger.info("latents' variances %s", [round(value, 3) for value in variances.tolist()])
    even = variances.clamp(min=WEAKEST * variances.mean())
    # Symmetric, so that each channel stays as close as it can to what it was.
    matrix = DEVIATION * (directions * even.rsqrt()) @ directions.T
    fold(tensors, matrix.float(), -(matrix @ mean).float())
    statistics = {"latents_mean": torch.zeros(16), "latents_std": torch.full((16,), DEVIATION)}
    save_file({**tensors, **statistics}, path)


@torch.inference_mode()
def measure_latents(vae: TinyVAE, folder: Path) -> tuple[Tensor, Tensor]:
    """Mean [16] and covariance [16, 16] of the channels over some clips, float64."""
    latents = []
    for shard in shard_paths(folder / "bank"):
        frames = torch.load(shard, mmap=True)["frames"][:5]
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
