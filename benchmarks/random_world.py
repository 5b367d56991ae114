"""Engines of any shape on random weights, because time does not depend on the numbers."""

import argparse
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lingbot.config import SCHEDULE_V2, ModelConfig, WorldConfig
from lingbot.dit.model import WorldModel
from lingbot.dit.precision import cast_weights
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup
from lingbot.runtime.engine import Engine
from lingbot.runtime.session import SessionSpec
from lingbot.vae.codec import LatentCodec
from lingbot.vae.tiny import TinyVAE

MIB = 2**20
# Actions of a person's walk, one list per chunk.
WALK = [["w", "w", "w"], ["w", "wl", "wl"], ["l", "l", ""], ["i", "w", "wj"], ["a", "a", "s"]]
# The 14B model at 832x480.
PRESET_14B = {
    "dim": 5120, "ffn": 13824, "heads": 40, "layers": 40, "text": 512, "width": 832, "height": 480,
    "budget": 4096.0, "device": "cuda", "dtype": "bfloat16",
}  # fmt: skip


def add_options(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """The options that shape a random world. `defaults` overrides the defaults below."""
    parser.add_argument("--preset-14b", action="store_true")
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument(
        "--ffn", type=int, help="default: 3 x dim, with the conditioner at 1/4 of the linear work"
    )
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--text", type=int, default=32, help="text tokens")
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--budget", type=float, default=64.0, help="camera cache in MiB")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on a GPU, else float32"
    )
    parser.set_defaults(**defaults)


def read_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line. --preset-14b replaces the defaults, not the options given."""
    if parser.parse_args().preset_14b:
        parser.set_defaults(**PRESET_14B)
    options = parser.parse_args()
    options.ffn = options.ffn or 3 * options.dim
    options.dtype = options.dtype or ("bfloat16" if options.device != "cpu" else "float32")
    return options


def model_shape(options: argparse.Namespace) -> ModelConfig:
    return ModelConfig(
        dim=options.dim,
        ffn_dim=options.ffn,
        freq_dim=256,
        num_heads=options.heads,
        num_layers=options.layers,
        text_dim=256,
        text_len=options.text,
    )


def random_model(options: argparse.Namespace) -> WorldModel:
    """The weights are the same in every call, and filled on their device."""
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    with torch.device("meta"):  # at 14B, filling on the CPU takes minutes
        model = WorldModel(model_shape(options))
    model = cast_weights(model, dtype).to_empty(device=torch.device(options.device))
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        else:
            torch.nn.init.constant_(weight, 0.0 if name.endswith("bias") else 1.0)
    return model.eval().requires_grad_(False)


def make_engine(
    model: WorldModel,
    options: argparse.Namespace,
    *,
    budget_bytes: int,
    group: SequenceParallelGroup = SINGLE,
) -> Engine:
    """An engine with the smallest decoder, because these benchmarks do not decode."""
    channels, device = (8, 8, 8, 8), torch.device(options.device)
    vae = TinyVAE(encoder_channels=channels, decoder_channels=channels).to(device).eval()
    mean, std = torch.zeros(16, 1, 1, 1, device=device), torch.ones(16, 1, 1, 1, device=device)
    return Engine(
        WorldConfig(
            name="random", width=options.width, height=options.height, schedule=SCHEDULE_V2
        ),
        model=model,
        vae=LatentCodec(vae, mean, std),
        camera_cache_bytes=budget_bytes,
        group=group,
    )


def random_spec(config: WorldConfig) -> SessionSpec:
    """A request for a session that starts from noise."""
    shape = (config.height, config.width, 3)
    image: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return SessionSpec(first_frame=image)
