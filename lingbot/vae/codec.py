"""The tiny VAE with its latent statistics: images and frames to normalised latents, and back.

Shape letters: B batch, F latent frames, T frames, H W pixels, h w latent pixels.
"""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from lingbot.config import TEMPORAL_STRIDE
from lingbot.errors import WeightsError
from lingbot.state_dict import compare, read_weights, width_of
from lingbot.vae.condition import with_mask
from lingbot.vae.pixels import Frames, to_frames, to_unit
from lingbot.vae.protocol import ImageCondition
from lingbot.vae.statistics import WAN_MEAN, WAN_STD, per_channel
from lingbot.vae.tiny import WIDTH_NAMES, DecoderState, TinyVAE

# The latents that a published tiny VAE takes: the DiT's, or those of the full VAE.
Latents = Literal["model", "vae"]


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
        tensors = read_weights(path)
        try:
            mean, std = (tensors.pop(name).float() for name in ("latents_mean", "latents_std"))
        except KeyError as exc:
            raise WeightsError(f"{path}: no tensor {exc}") from exc
        network = build_tiny(tensors, source=path, device=device, dtype=dtype)
        return cls(network, *(t.to(device)[:, None, None, None] for t in (mean, std)))

    def encode(self, video: Tensor) -> Tensor:
        """[B, 4F, 3, H, W] in 0..1 -> latents [B, 16, F, h, w] float32."""
        return self._normalise(self.network.encode(self._like_weights(video)))

    def new_decoder_state(self) -> DecoderState:
        return DecoderState()

    def state_tensors(self, state: DecoderState) -> list[Tensor]:
        return state.memory

    def decode(self, latents: Tensor, state: DecoderState) -> Frames:
        """[1, 16, F, h, w] -> [T, H, W, 3]; T is 4F, 3 fewer where the state is fresh."""
        return to_frames(self.decode_video(latents, state)[0])

    def decode_video(self, latents: Tensor, state: DecoderState) -> Tensor:
        """[B, 16, F, h, w] -> [B, T, 3, H, W], about in 0..1, with T as in `decode`.

        The result is not clamped, because a gradient does not pass a clamp.
        """
        latents = self._like_weights((latents * self.std + self.mean).transpose(1, 2))
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

        The mask is 1 on the image's latent frame and 0 on all others. The latents are those of
        `encode_condition`, which encodes every grey frame.
        """
        first = to_unit(image)
        frames = self._like_weights(torch.stack([first, torch.full_like(first, 0.5)]))
        order = [0] * TEMPORAL_STRIDE + [1] * (2 * chunk - 1) * TEMPORAL_STRIDE
        latents = self._normalise(self.network.encode_repeats(frames, order))
        return ImageCondition(with_mask(latents).split(chunk, dim=2))

    def _like_weights(self, x: Tensor) -> Tensor:
        """x on the device of the network's weights, and of their type."""
        weight = next(self.network.parameters())
        return x.to(device=weight.device, dtype=weight.dtype)

    def _normalise(self, latents: Tensor) -> Tensor:
        """The network's latents [B, F, 16, h, w] -> the model's [B, 16, F, h, w] float32."""
        return (latents.float().transpose(1, 2) - self.mean) / self.std


def load_tiny_vae(
    path: Path, *, device: torch.device, dtype: torch.dtype, latents: Latents | None = None
) -> LatentCodec:
    """A published tiny VAE of Wan 2.1's latents: TAEHV (`taew2_1`) or LightTAE (`lighttaew2_1`).

    The two have the same tensors, but TAEHV takes the model's normalised latents and LightTAE the
    full VAE's; a wrong choice looks nearly right. None goes by the file's name, as other servers
    do. Raises WeightsError for a file that cannot be read, or whose tensors do not fit.
    """
    network = build_tiny(read_weights(path), source=path, device=device, dtype=dtype)
    latents = latents or latents_by_name(path)
    mean, std = (WAN_MEAN, WAN_STD) if latents == "vae" else ((0.0,) * 16, (1.0,) * 16)
    return LatentCodec(network, per_channel(mean, device=device), per_channel(std, device=device))


def latents_by_name(path: Path) -> Latents:
    """The latents that a tiny VAE of this file name takes."""
    return "vae" if "lighttae" in path.name.lower() else "model"


def build_tiny(
    tensors: dict[str, Tensor], *, source: Path, device: torch.device, dtype: torch.dtype
) -> TinyVAE:
    """The network of these tensors, fused for decoding. Errors name the file `source`."""
    for name in chain(*WIDTH_NAMES):
        width_of(tensors.get(name), name, source=source)
    with torch.device("meta"):
        expected = TinyVAE.from_shapes(tensors).state_dict()
    compare(tensors, expected, source=source)
    network = TinyVAE.from_state_dict(tensors).fuse()
    return network.to(device=device, dtype=dtype).eval().requires_grad_(False)
