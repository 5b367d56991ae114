"""The tiny video autoencoder in the TAEHV layout, with an explicit decoder state.

The layout is that of madebyollin/taehv (`taew2_1`). Four frames become one latent frame, 8x8 pixels
one latent pixel. A clip is one batch of B * T frames: only `MemoryBlock` looks at another frame,
the previous one. The decoder delays its output by 3 frames; the first 3 are dropped.

Shape letters: B batch, T frames at the rate of the layer, C channels, H W pixels, h w = H/8 W/8.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lingbot.config import LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE

DELAY_FRAMES = 3  # by which the decoder's output lags

Widths = tuple[int, int, int, int]
Key = TypeVar("Key", bound=Hashable)

# The convolutions whose shapes give the widths, of the encoder and of the decoder.
WIDTH_NAMES = (
    [f"encoder.{i}.weight" for i in (0, 3, 8, 13)],
    [f"decoder.{i}.weight" for i in (1, 8, 14, 20)],
)


@dataclass(slots=True)
class DecoderState:
    """One session's decoder state: the last input of each memory block, [B, C, H, W] each."""

    memory: list[Tensor] = field(default_factory=list)  # empty before the first chunk

    def clone(self) -> "DecoderState":
        """A copy that decoding with the original does not change."""
        return DecoderState([last.clone() for last in self.memory])


class Clamp(nn.Module):
    """A soft limit of ±3 on the latents."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class MemoryBlock(nn.Module):
    """A residual block over a frame and the previous one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """x and the previous frames, both [B * T, C, H, W]."""
        return F.relu(self.conv(torch.cat([x, before], dim=1)) + x)


class TimePool(nn.Module):
    """Folds `stride` frames into the channels of one."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width * stride, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        _, C, H, W = x.shape
        y: Tensor = self.conv(x.reshape(-1, self.stride * C, H, W))
        return y


class TimeGrow(nn.Module):
    """Unfolds one frame into `stride` frames of twice the size.

    The layout upsamples before this 1x1 convolution. The two commute, so that the convolution can
    run first, on a quarter of the pixels.
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        _, C, H, W = x.shape
        return F.interpolate(self.conv(x).reshape(-1, C, H, W), scale_factor=2.0, mode="nearest")


class GrowConv(nn.Module):
    """A `TimeGrow` and the 3x3 convolution behind it, as one transposed convolution.

    Both are linear, so that their kernels can be composed. An output pixel depends on 2x2 input
    pixels: it takes 4 products instead of 9, and the upsampled image is never written.
    """

    def __init__(self, grow: TimeGrow, conv: nn.Conv2d) -> None:
        super().__init__()
        self.width = conv.out_channels
        mixed = torch.einsum(
            "oiyx,sic->csoyx",
            conv.weight.double(),
            grow.conv.weight.double().flatten(1).unflatten(0, (-1, conv.in_channels)),
        )
        taps = F.pad(mixed.flip(-2, -1).flatten(1, 2), (1, 1, 1, 1))
        kernel = 4 * F.avg_pool2d(taps, 2, stride=1)  # [C, stride * width, 4, 4]
        self.register_buffer("kernel", kernel.to(conv.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv_transpose2d(x, self.get_buffer("kernel"), stride=2, padding=1)
        # In NHWC order, which the convolutions before and after it have.
        frames: Tensor = y.unflatten(1, (-1, self.width)).permute(0, 1, 3, 4, 2)
        return frames.flatten(0, 1).permute(0, 3, 1, 2)


class TinyVAE(nn.Module):
    """TAEHV. The official widths are the default; the pocket world's are narrower."""

    def __init__(
        self,
        *,
        encoder_channels: Widths = (64, 64, 64, 64),
        decoder_channels: Widths = (256, 128, 64, 64),
    ) -> None:
        super().__init__()
        self.encoder = build_encoder(encoder_channels)
        self.decoder = build_decoder(decoder_channels)

    @classmethod
    def from_shapes(cls, state_dict: Mapping[str, Tensor]) -> Self:
        """An autoencoder without these weights but of their widths. `WIDTH_NAMES` must be there."""
        encoder, decoder = (
            _four([state_dict[name].shape[0] for name in names]) for names in WIDTH_NAMES
        )
        return cls(encoder_channels=encoder, decoder_channels=decoder)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> Self:
        """The autoencoder with these weights, whose shapes give its widths.

        Raises KeyError for a missing convolution, RuntimeError for other names or shapes.
        """
        vae = cls.from_shapes(state_dict)
        vae.load_state_dict(state_dict)
        return vae._in_channels_last()

    @torch.no_grad()
    def fuse(self) -> Self:
        """Make decoding faster, once and for inference: the state dict has other names then."""
        layers: list[nn.Module] = []
        for layer in self.decoder:
            if layers and isinstance(grow := layers[-1], TimeGrow):
                assert isinstance(layer, nn.Conv2d)
                layers[-1] = GrowConv(grow, layer)
            else:
                layers.append(layer)
        self.decoder = nn.Sequential(*layers)
        return self._in_channels_last()

    def _in_channels_last(self) -> Self:
        # Twice as fast on a CPU. The type stubs lack the argument.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def encode(self, video: Tensor) -> Tensor:
        """[B, 4T, 3, H, W] in 0..1 -> latents [B, T, 16, h, w].

        A world begins with a single frame; `repeat_first` makes it a group of 4. Raises ValueError
        for other multiples.
        """
        B, num_frames, _, H, W = video.shape
        if num_frames % TEMPORAL_STRIDE or H % SPATIAL_STRIDE or W % SPATIAL_STRIDE:
            raise ValueError(
                f"{num_frames} frames of {W}x{H}: expected multiples of {TEMPORAL_STRIDE} frames "
                f"and {SPATIAL_STRIDE} pixels"
            )
        return _run(self.encoder, video, [], [])

    def encode_repeats(self, frames: Tensor, order: Sequence[int]) -> Tensor:
        """As `encode`, of one clip whose frame t is `frames[order[t]]`; it takes less time.

        frames [N, 3, H, W] in 0..1 -> latents [1, T / 4, 16, h, w], for T indices. Each layer
        computes frames that are equal, and have equal frames before them, once.
        """
        x, order = frames, list(order)
        for layer in self.encoder:
            if isinstance(layer, MemoryBlock):
                order, pairs = _number(pairwise([len(x), *order]))
                before, now = torch.tensor(pairs, device=x.device).T
                with_zeros = torch.cat([x, torch.zeros_like(x[:1])])  # before the first frame
                x = layer(with_zeros[now], with_zeros[before])
            elif isinstance(layer, TimePool):
                order, groups = _number(zip(*[iter(order)] * layer.stride, strict=True))
                x = layer(x[torch.tensor(groups, device=x.device).flatten()])
            else:
                x = layer(x)
        return x[order][None]

    def decode(self, latents: Tensor, state: DecoderState, *, clamp: bool = True) -> Tensor:
        """[B, T, 16, h, w] -> frames [B, 4T, 3, 8h, 8w] in 0..1, 3 fewer where `state` is fresh.

        Moves `state` on, so that decoding in pieces equals decoding at once. Training turns `clamp`
        off, because a clamped pixel has no gradient.
        """
        last_inputs: list[Tensor] = []
        frames = _run(self.decoder, latents, state.memory, last_inputs)
        fresh = not state.memory
        state.memory = last_inputs
        frames = frames[:, DELAY_FRAMES if fresh else 0 :]
        return frames.clamp(0, 1) if clamp else frames


def repeat_first(video: Tensor) -> Tensor:
    """Repeat the first frame three times, to a group of 4: [B, 4T - 3, ...] -> [B, 4T, ...]."""
    first = video[:, :1].repeat_interleave(TEMPORAL_STRIDE - 1, dim=1)
    return torch.cat([first, video], dim=1)


def build_encoder(channels: Widths) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, channels[0], 3, padding=1), nn.ReLU(inplace=True)]
    for width, next_width, stride in zip(channels, channels[1:], (2, 2, 1), strict=False):
        layers.append(TimePool(width, stride))
        layers.append(nn.Conv2d(width, next_width, 3, stride=2, padding=1, bias=False))
        layers.extend(MemoryBlock(next_width) for _ in range(3))
    layers.append(nn.Conv2d(channels[3], LATENT_CHANNELS, 3, padding=1))
    return nn.Sequential(*layers)


def build_decoder(channels: Widths) -> nn.Sequential:
    first = nn.Conv2d(LATENT_CHANNELS, channels[0], 3, padding=1)
    layers: list[nn.Module] = [Clamp(), first, nn.ReLU(inplace=True)]
    for width, next_width, stride in zip(channels, channels[1:], (1, 2, 2), strict=False):
        layers.extend(MemoryBlock(width) for _ in range(3))
        layers.append(nn.Identity())  # in place of the layout's upsampling, which `TimeGrow` does
        layers.append(TimeGrow(width, stride))
        layers.append(nn.Conv2d(width, next_width, 3, padding=1, bias=False))
    layers.extend([nn.ReLU(inplace=True), nn.Conv2d(channels[3], 3, 3, padding=1)])
    return nn.Sequential(*layers)


def _run(layers: nn.Sequential, x: Tensor, memory: list[Tensor], last: list[Tensor]) -> Tensor:
    """Apply `layers` to x [B, T, C, H, W].

    `memory` holds the input before x of each memory block; if empty, it is zeros. `last` receives
    each memory block's last input.
    """
    B = x.shape[0]
    x = x.flatten(0, 1)
    for layer in layers:
        if not isinstance(layer, MemoryBlock):
            x = layer(x)
            continue
        T = len(x) // B
        before = torch.empty_like(x)  # with the strides of x, which a cat of clips would not keep
        before[1:] = x[:-1]
        before[::T] = memory[len(last)] if memory else 0
        last.append(x[T - 1 :: T].clone())
        x = layer(x, before)
    return x.reshape(B, -1, *x.shape[1:])


def _number(keys: Iterable[Key]) -> tuple[list[int], list[Key]]:
    """The index of each key among the different keys, and these."""
    numbers: dict[Key, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys], list(numbers)


def _four(widths: list[int]) -> Widths:
    first, second, third, fourth = widths
    return first, second, third, fourth
