import numpy as np
import pytest
import torch

from lingbot.config import SCHEDULE_V2, ModelConfig, WorldConfig
from lingbot.engine import Engine
from lingbot.frame_codec import FrameCodec
from lingbot.model import WorldModel
from lingbot.session import SessionSpec
from lingbot.text import PocketTextEncoder
from lingbot.tiny_vae import TinyVAE

torch.set_num_threads(1)  # these models are so small that threads only wait for each other

SHAPE = ModelConfig(
    dim=48, ffn_dim=64, freq_dim=16, num_heads=4, num_layers=2, text_dim=8, text_len=6
)
WORLD = WorldConfig(name="toy", width=48, height=32, schedule=SCHEDULE_V2, window=9, sink=3)


@pytest.fixture(scope="session")
def engine():
    """The product's engine on small random weights."""
    torch.manual_seed(0)
    channels = (8, 8, 8, 8)
    vae = TinyVAE(encoder_channels=channels, decoder_channels=channels)
    codec = FrameCodec(vae.eval(), torch.zeros(16, 1, 1, 1), torch.ones(16, 1, 1, 1))
    return Engine(
        WORLD,
        model=WorldModel(SHAPE).eval(),
        codec=codec,
        text_encoder=PocketTextEncoder(text_dim=SHAPE.text_dim, text_len=SHAPE.text_len),
    )


@pytest.fixture
def spec():
    """Ask for a world; the picture is noise."""

    def make(**changes):
        pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
        return SessionSpec(**{"first_frame": pixels, "prompt": "a toy", "seed": 7, **changes})

    return make
