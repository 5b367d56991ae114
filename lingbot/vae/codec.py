"""Pictures to the latents that the DiT works on, and back.

Shape letters: F latent frames, T frames, H W pixels, h w latent pixels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingbot.config import TEMPORAL_STRIDE
from lingbot.errors import WeightsError
from lingbot.files import read_tensors
from lingbot.vae.tiny import DecoderState, TinyVAE

Frames = NDArray[np.uint8]


class ImageCondition(NamedTuple):
    """Mask and image latents, as the DiT takes them beside the noise; [1, 20, F, h, w] each."""

    first: Tensor  # of the chunk that begins with the picture
    later: Tensor  # of every chunk after it

    def of_chunk(self, index: int) -> Tensor:
        return self.later if index else self.first


@dataclass(frozen=True, slots=True)
class LatentCodec:
    """An autoencoder and the statistics that make its latents unit normal."""

    vae: TinyVAE
    mean: Tensor  # [16, 1, 1, 1]
    std: Tensor

    @classmethod
    def load(cls, path: Path, *, device: torch.device, dtype: torch.dtype) -> Self:
        """Read TAEHV-layout weights with ``latents_mean`` and ``latents_std`` [16] beside them."""
        tensors = read_tensors(path)
        try:
            mean, std = (tensors.pop(name).float() for name in ("latents_mean", "latents_std"))
            vae = TinyVAE.from_state_dict(tensors)
        except (KeyError, RuntimeError) as exc:
            raise WeightsError(f"{path}: {exc}") from exc
        vae = vae.to(device=device, dtype=dtype).eval().requires_grad_(False)
        return cls(vae, *(t.to(device)[:, None, None, None] for t in (mean, std)))

    def encode(self, video: Tensor) -> Tensor:
        """[1, 4F, 3, H, W] in 0..1 -> latents [1, 16, F, h, w] float32."""
        weight = next(self.vae.parameters())
        latents = self.vae.encode(video.to(device=weight.device, dtype=weight.dtype))
        return (latents.float().transpose(1, 2) - self.mean) / self.std

    def decode(self, latents: Tensor, state: DecoderState) -> Frames:
        """[1, 16, F, h, w] -> [T, H, W, 3]; T is 4F, 3 fewer where the state is fresh."""
        frames = self.decode_video(latents, state)[0].clamp(0, 1)
        pixels = (frames.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return np.ascontiguousarray(pixels.cpu().numpy())

    def decode_video(self, latents: Tensor, state: DecoderState) -> Tensor:
        """[B, 16, F, h, w] -> [B, T, 3, H, W], about in 0..1, as `decode` does; for a gradient."""
        weight = next(self.vae.parameters())
        latents = (latents * self.std + self.mean).transpose(1, 2).to(weight.dtype)
        return self.vae.decode(latents, state, clamp=False)

    def encode_condition(self, pictures: Tensor, *, chunk: int) -> Tensor:
        """What worlds that start from ``pictures`` are conditioned on, as they are and no mask.

        [B, 3, H, W] in 0..1 -> latents [B, 16, 2 * chunk, h, w]: those of the first chunk, then
        those of every later one. The picture, then grey for the rest of two chunks, is encoded
        once, and the second chunk's condition serves all later ones, with what trace of the picture
        is left in it: so does the reference, and so are the pocket world's clips conditioned.
        """
        first = pictures[:, None].expand(-1, TEMPORAL_STRIDE, -1, -1, -1)
        grey = torch.full_like(first, 0.5).repeat(1, 2 * chunk - 1, 1, 1, 1)
        return self.encode(torch.cat([first, grey], dim=1))

    def encode_image(self, image: Frames, *, chunk: int) -> ImageCondition:
        """The condition of a world that starts from ``image`` [H, W, 3].

        The mask is 1 on the picture's latent frame.
        """
        picture = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)
        latents = self.encode_condition(picture[None], chunk=chunk)
        mask = torch.zeros_like(latents[:, :4])
        mask[:, :, 0] = 1
        first, later = torch.cat([mask, latents], dim=1).split(chunk, dim=2)
        return ImageCondition(first, later)
