"""The memory of a session's VAE state, from shapes alone. Imports no torch.

Shape letters: h w latent pixels.
"""

from collections.abc import Sequence

from lingbot.config import LATENT_CHANNELS, SPATIAL_STRIDE

KEPT_FRAMES = 2  # a causal convolution of the Wan VAE keeps the last two of its input
MEMORY_BLOCKS = 3  # per size in a tiny VAE; each keeps one frame
MASK_CHANNELS = 4


def wan_decoder_bytes(
    *,
    width: int,
    height: int,
    itemsize: int,
    base: int = 96,
    multipliers: Sequence[int] = (1, 2, 4, 4),
    num_res_blocks: int = 2,
    temporal: Sequence[bool] = (False, True, True),
) -> int:
    """The state of a Wan decoder after its second latent frame, when it no longer grows.

    The arguments are those of diffusers' class. `itemsize` is the bytes of a number: 2 for bf16.
    """
    pixels = (width // SPATIAL_STRIDE) * (height // SPATIAL_STRIDE)
    levels = [base * multiplier for multiplier in reversed(multipliers)]
    before = levels[0]
    numbers = pixels * (LATENT_CHANNELS + 4 * before)  # the first convolution and the middle
    for level, inner in enumerate(levels):
        numbers += pixels * (before + (2 * num_res_blocks + 1) * inner)
        if level < len(temporal):
            if temporal[-1 - level]:
                numbers += pixels * inner  # the convolution that doubles the frames
            pixels *= 4
            before = inner // 2
    numbers += pixels * levels[-1]  # the last convolution
    return KEPT_FRAMES * numbers * itemsize


def tiny_decoder_bytes(
    *, width: int, height: int, itemsize: int, channels: Sequence[int] = (256, 128, 64, 64)
) -> int:
    """The state of a TAEHV-layout decoder. The last width has no memory block."""
    pixels = (width // SPATIAL_STRIDE) * (height // SPATIAL_STRIDE)
    numbers = 0
    for inner in channels[:-1]:
        numbers += pixels * inner
        pixels *= 4
    return MEMORY_BLOCKS * numbers * itemsize


def condition_bytes(*, width: int, height: int, latent_frames: int) -> int:
    """A session's image condition in float32: 30 latent frames of the full VAE, 6 of the pocket's.

    The chunk that the last ones are filled to may take a few more.
    """
    pixels = (width // SPATIAL_STRIDE) * (height // SPATIAL_STRIDE)
    return 4 * (LATENT_CHANNELS + MASK_CHANNELS) * latent_frames * pixels
