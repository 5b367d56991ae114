"""The product's engine on small random weights, for fixtures and for the processes of tests."""

import numpy as np
import torch
from msgspec.structs import replace

from lingbot.config import SCHEDULE_V2, ModelConfig, Size, WorldConfig
from lingbot.dit.model import WorldModel
from lingbot.runtime.engine import Engine
from lingbot.runtime.session import SessionSpec
from lingbot.text.pocket import HashedWordEncoder
from lingbot.vae.codec import LatentCodec
from lingbot.vae.tiny import TinyVAE

SHAPE = ModelConfig(
    dim=48, ffn_dim=64, freq_dim=16, num_heads=4, num_layers=2, text_dim=8, text_len=6
)
WORLD = WorldConfig(name="toy", sizes=(Size(48, 32),), schedule=SCHEDULE_V2, window=9, sink=3)


# Longer than the window. The camera moves from the first chunk on.
WALK = [["w", "w", "wl"], ["w", "wl", "l"], ["", "i", "s"], ["w", "w", "a"], ["d", "k", "wl"]]


def make_engine(
    *, world=WORLD, control="cam", device="cpu", ffn_dim=64, max_positions=1024, **options
):
    """The weights are the same in every call."""
    torch.manual_seed(0)
    channels = (8, 8, 8, 8)
    vae = TinyVAE(encoder_channels=channels, decoder_channels=channels)
    statistics = (fill((16, 1, 1, 1), device=device) for fill in (torch.zeros, torch.ones))
    return Engine(
        replace(world, max_positions=max_positions),
        model=WorldModel(replace(SHAPE, control=control, ffn_dim=ffn_dim)).eval().to(device),
        vae=LatentCodec(vae.eval().to(device), *statistics),
        **options,
    )


def encode(prompt):
    return HashedWordEncoder(text_dim=SHAPE.text_dim, text_len=SHAPE.text_len).encode(prompt)


def make_image(size=WORLD.size):
    return np.random.default_rng(0).integers(0, 256, (size.height, size.width, 3), dtype=np.uint8)


def make_spec(*, prompt="a toy", **changes):
    """A request for a session; its image is noise."""
    defaults = {"first_frame": make_image(), "context": encode(prompt), "prompt": prompt, "seed": 7}
    return SessionSpec(**{**defaults, **changes})
