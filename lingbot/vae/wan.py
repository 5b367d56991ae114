"""Wan 2.1's VAE with an explicit session state: images to latents, latents to frames.

The network is diffusers'. It is causal: each temporal convolution needs the last two frames of its
input. `state` is the list of those, one entry a convolution, and None before the first frame.

Shape letters: F latent frames, T frames, H W pixels, h w latent pixels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lingbot.config import LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE
from lingbot.vae.condition import settled_condition
from lingbot.vae.pixels import Frames, to_frames, to_signed
from lingbot.vae.protocol import ImageCondition
from lingbot.vae.settling import encode_until_settled
from lingbot.vae.statistics import per_channel
from lingbot.vae.wan_weights import load_weights

# Tensors, and marks of diffusers. A later frame replaces an entry and never writes into its tensor.
WanState = list[Any]


@dataclass(frozen=True, slots=True)
class WanVAE:
    """The engine's `VAE` on diffusers' network, on which no state is kept."""

    network: Any  # AutoencoderKLWan
    mean: Tensor  # [16, 1, 1, 1]
    std: Tensor

    def new_decoder_state(self) -> WanState:
        return [None] * count_convolutions(self.network.decoder)

    def state_tensors(self, state: WanState) -> list[Tensor]:
        return [entry for entry in state if isinstance(entry, Tensor)]

    def new_encoder_state(self) -> WanState:
        return [None] * count_convolutions(self.network.encoder)

    def decode(self, latents: Tensor, state: WanState) -> Frames:
        """[1, 16, F, h, w] -> [T, H, W, 3]; T is 4F, 3 fewer where the state is fresh."""
        video = self.decode_video(latents, state)[0].float()
        return to_frames((video * 0.5 + 0.5).transpose(0, 1))

    def decode_video(self, latents: Tensor, state: WanState) -> Tensor:
        """[1, 16, F, h, w] -> [1, 3, T, H, W], about in -1..1 and not clamped; T as in `decode`.

        The latent frames go one by one, so that decoding in pieces gives the bits of decoding at
        once.
        """
        weight = self.network.post_quant_conv.weight
        latents = (latents * self.std + self.mean).to(weight.dtype)
        clips = []
        for frame in latents.split(1, dim=2):
            frame = self.network.post_quant_conv(frame)
            clips.append(self.network.decoder(frame, feat_cache=state, feat_idx=[0]))
        return torch.cat(clips, dim=2)

    def encode(self, video: Tensor, state: WanState) -> Tensor:
        """[1, 3, T, H, W] in -1..1 -> latents [1, 16, F, h, w] float32.

        T is 4F, 3 fewer where the state is fresh. Raises ValueError for other numbers.
        """
        num_frames, H, W = video.shape[2:]
        alone = 1 if state[0] is None else 0  # a world's first frame has a latent frame of its own
        if (num_frames - alone) % TEMPORAL_STRIDE or H % SPATIAL_STRIDE or W % SPATIAL_STRIDE:
            raise ValueError(
                f"{num_frames} frames of {W}x{H}: expected multiples of {TEMPORAL_STRIDE} frames "
                f"(plus {alone}) and {SPATIAL_STRIDE} pixels"
            )
        groups = [video[:, :, :1]] if alone else []
        groups += video[:, :, alone:].split(TEMPORAL_STRIDE, dim=2) if num_frames > alone else []
        return torch.cat([self._encode_group(group, state) for group in groups], dim=2)

    def encode_condition(self, image: Tensor) -> Tensor:
        """[1, 3, H, W] in -1..1 -> [1, 16, N, h, w]: a video of the image, then grey.

        Later latent frames repeat the last of the N: see `count_unsettled`. The frames are encoded
        in groups of four, so that memory does not grow with N.
        """
        weight = self.network.quant_conv.weight
        first = image[:, :, None].to(device=weight.device, dtype=weight.dtype)
        grey = torch.zeros_like(first).expand(-1, -1, TEMPORAL_STRIDE, -1, -1)
        encoded = encode_until_settled(
            self.network.encoder, first, grey, num_groups=count_unsettled(self.network.config)
        )
        return torch.cat([self._normalise(latents) for latents in encoded], dim=2)

    def encode_image(self, image: Frames, *, chunk: int) -> ImageCondition:
        """image [H, W, 3] -> the condition of a world that starts from it."""
        latents = self.encode_condition(to_signed(image)[None])
        return settled_condition(latents, chunk=chunk)

    def _encode_group(self, frames: Tensor, state: WanState) -> Tensor:
        """[1, 3, 1 or 4, H, W] -> [1, 16, 1, h, w] float32."""
        weight = self.network.quant_conv.weight
        frames = frames.to(device=weight.device, dtype=weight.dtype)
        return self._normalise(self.network.encoder(frames, feat_cache=state, feat_idx=[0]))

    def _normalise(self, encoded: Tensor) -> Tensor:
        """The encoder's output [1, 32, 1, h, w] -> the mean of the latents, float32."""
        moments: Tensor = self.network.quant_conv(encoded)
        return (moments[:, :LATENT_CHANNELS].float() - self.mean) / self.std


def load_wan_vae(path: Path, *, device: torch.device, dtype: torch.dtype) -> WanVAE:
    """The VAE of `Wan2.1_VAE.pth`, of the same tensors in a `.safetensors`, or of a `vae/` folder.

    Raises WeightsError with the file and the wrong tensor; LingbotError without diffusers.
    """
    network, mean, std = load_weights(path)
    # Not `network.to`: diffusers' own warns of a cast.
    torch.nn.Module.to(network, device=device, dtype=dtype)
    return WanVAE(
        network,
        per_channel(mean, device=device),
        per_channel(std, device=device),
    )


def count_convolutions(network: torch.nn.Module) -> int:
    """The length of a state. The network's 1x1 convolutions leave their entries empty."""
    return sum(isinstance(layer, torch.nn.Conv3d) for layer in network.modules())


def count_unsettled(config: Any) -> int:
    """The latent frames that depend on a video's first frame: 29 of Wan 2.1's encoder.

    A temporal convolution sees the two frames before its own, at the frame rate of its level.
    """
    rate, reach = 1, 2  # video frames per frame of the level; video frames seen before the own
    for index, _ in enumerate(config.dim_mult):
        reach += rate * 4 * config.num_res_blocks
        if index < len(config.temperal_downsample) and config.temperal_downsample[index]:
            reach += 2 * rate
            rate *= 2
    reach += rate * (2 * 4 + 2)  # the middle's two residual blocks and the last convolution
    return reach // TEMPORAL_STRIDE + 1
