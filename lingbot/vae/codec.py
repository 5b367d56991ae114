"""The tiny VAE with its latent statistics: images and frames to normalised latents, and back.

Shape letters: B batch, F latent frames, T frames, H W pixels, h w latent pixels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lingbot.config import TEMPORAL_STRIDE
from lingbot.errors import WeightsError
from lingbot.files import read_tensors
from lingbot.vae.protocol import ImageCondition
from lingbot.vae.tiny import DecoderState, TinyVAE

Frames = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class LatentCodec:
    """The engine's `VAE`: an autoencoder, and the statistics that normalise its latents."""

    network: TinyVAE
    mean: Tensor  # [16, 1, 1, 1]
    std: Tensor

    @classmethod
    def load(cls, path: Path, *, device: torch.device, dtype: torch.dtype) -> Self:
        """Read a file of TAEHV-layout weights, `latents_mean` [16] and `latents_std` [16].

        Raises WeightsError for a file that cannot be read, or whose tensors do not fit.
        """
        tensors = read_tensors(path)
        try:
            mean, std = (tensors.pop(name).float() for name in ("latents_mean", "latents_std"))
            network = TinyVAE.from_state_dict(tensors).fuse()
        except (KeyError, RuntimeError) as exc:
            raise WeightsError(f"{path}: {exc}") from exc
        network = network.to(device=device, dtype=dtype).eval().requires_grad_(False)
        return cls(network, *(t.to(device)[:, None, None, None] for t in (mean, std)))

    def encode(self, video: Tensor) -> Tensor:
        """[B, 4F, 3, H, W] in 0..1 -> latents [B, 16, F, h, w] float32."""
        weight = next(self.network.parameters())
        latents = self.network.encode(video.to(device=weight.device, dtype=weight.dtype))
        return (latents.float().transpose(1, 2) - self.mean) / self.std

    def new_decoder_state(self) -> DecoderState:
        return DecoderState()

    def decode(self, latents: Tensor, state: DecoderState) -> Frames:
        """[1, 16, F, h, w] -> [T, H, W, 3]; T is 4F, 3 fewer where the state is fresh."""
        frames = self.decode_video(latents, state)[0].clamp(0, 1)
        pixels = (frames.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return np.ascontiguousarray(pixels.cpu().numpy())

    def decode_video(self, latents: Tensor, state: DecoderState) -> Tensor:
        """[B, 16, F, h, w] -> [B, T, 3, H, W], about in 0..1, with T as in `decode`.

        The result is not clamped, because a gradient does not pass a clamp.
        """
        weight = next(self.network.parameters())
        latents = (latents * self.std + self.mean).transpose(1, 2).to(weight.dtype)
        return self.network.decode(latents, state, clamp=False)

    def encode_condition(self, images: Tensor, *, chunk: int) -> Tensor:
        """Image-condition latents of worlds that start from `images`, without mask channels.

        [B, 3, H, W] in 0..1 -> [B, 16, 2 * chunk, h, w]: the latents of the first chunk, then those
        of every later one. Two chunks are encoded at once, the image and then grey. All later
        chunks reuse the second one's latents, which hold a trace of the image. The reference does
        the same, and so does the training of the pocket world.
        """
        first = images[:, None].expand(-1, TEMPORAL_STRIDE, -1, -1, -1)
        grey = torch.full_like(first, 0.5).repeat(1, 2 * chunk - 1, 1, 1, 1)
        return self.encode(torch.cat([first, grey], dim=1))

    def encode_image(self, image: Frames, *, chunk: int) -> ImageCondition:
        """image [H, W, 3] -> the condition of a world that starts from it.

        The mask is 1 on the image's latent frame and 0 on all others.
        """
        pixels = torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)
        latents = self.encode_condition(pixels[None], chunk=chunk)
        mask = torch.zeros_like(latents[:, :4])
        mask[:, :, 0] = 1
        first, later = torch.cat([mask, latents], dim=1).split(chunk, dim=2)
        return ImageCondition(first, later)
