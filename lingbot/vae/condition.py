"""The image condition of a world: its latents beside the mask, chunk by chunk.

Shape letters: N latent frames, F latent frames of a chunk, h w latent pixels.
"""

import torch
from torch import Tensor

from lingbot.vae.protocol import ImageCondition


def with_mask(latents: Tensor) -> Tensor:
    """[1, 16, N, h, w] -> [1, 20, N, h, w]: four mask channels first, 1 on the image's frame."""
    mask = torch.zeros_like(latents[:, :4])
    mask[:, :, 0] = 1
    return torch.cat([mask, latents], dim=1)


def settled_condition(latents: Tensor, *, chunk: int) -> ImageCondition:
    """The condition that repeats its last latent frame without end: latents [1, 16, N, h, w].

    N is at least 2. The chunks are views of these N latent frames, so that a session keeps no more.
    """
    frames = with_mask(latents)
    last = frames[:, :, -1:]
    *parts, end = frames.split(chunk, dim=2)
    if missing := chunk - end.shape[2]:
        end = torch.cat([end, last.expand(-1, -1, missing, -1, -1)], dim=2)
    return ImageCondition((*parts, end, last.expand(-1, -1, chunk, -1, -1)))
