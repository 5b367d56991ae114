"""Initial weights of the autoencoder, with which colours pass through unchanged.

Tested in `tests/pocket/test_train.py`.
"""

import math

import torch
from torch import nn

from lingbot.vae.tiny import MemoryBlock, TimeGrow, TimePool, TinyVAE

LATENT_GAIN = 2.0  # amplifies colours in the latents, which a soft clamp bounds at 3


def init_as_pyramid(vae: TinyVAE) -> None:
    """Initialise an autoencoder as an image pyramid: colours are averaged down and smoothed up.

    The first three channels of every layer carry the colours. The other channels are drawn at
    random, keep the variance of their inputs, and learn the remaining detail. Without this
    initialisation the first thousand steps go into colours.
    """
    for layer in vae.modules():
        if isinstance(layer, nn.Conv2d):
            gain = 1.0 if layer.kernel_size == (1, 1) else math.sqrt(2)
            nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.weight[0].numel()))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for block in vae.modules():
        if isinstance(block, MemoryBlock):  # starts as the identity
            last = block.conv[-1]
            assert isinstance(last, nn.Conv2d)
            nn.init.zeros_(last.weight)
    first, *encoder, latent = (layer for layer in vae.encoder if _convolves(layer))
    into, *decoder, frame = (layer for layer in vae.decoder if _convolves(layer))
    with torch.no_grad():
        for layer in (first, *encoder, *decoder, frame):
            _pass_colours(layer)
        _pass_colours(latent, gain=LATENT_GAIN, offset=-0.5 * LATENT_GAIN)
        _pass_colours(into, gain=1 / LATENT_GAIN, offset=0.5)


def _convolves(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d | TimePool | TimeGrow)


def _pass_colours(layer: nn.Module, *, gain: float = 1.0, offset: float = 0.0) -> None:
    """Make a layer pass its first three channels through, smoothed after a change of size."""
    conv = layer if isinstance(layer, nn.Conv2d) else layer.conv
    assert isinstance(conv, nn.Conv2d)
    weight = conv.weight
    if weight.shape[2] == 1:
        kernel = torch.ones(1, 1)
    elif conv.bias is None:  # in this layout, layers after a change of size
        line = torch.tensor([0.0, 0.5, 0.5] if conv.stride == (2, 2) else [0.25, 0.5, 0.25])
        kernel = torch.outer(line, line)
    else:
        kernel = torch.zeros(3, 3)
        kernel[1, 1] = 1
    pooled = isinstance(layer, TimePool)
    width = weight.shape[0] if pooled else weight.shape[1]  # of one frame
    for colour in range(3):
        outputs = slice(colour, None, width) if isinstance(layer, TimeGrow) else colour
        inputs = slice(colour, None, width) if pooled else colour
        weight[outputs] = 0
        weight[outputs, inputs] = gain * kernel / (weight.shape[1] // width if pooled else 1)
        if conv.bias is not None:
            conv.bias[colour] = offset
