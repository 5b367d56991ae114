"""TAEHV for Wan 2.1's latents, on weights that follow from a formula.

Tested in `tests/lingbot/test_verify_vae.py`.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from lingbot.config import Positive
from lingbot.errors import WeightsError
from lingbot.files import read_json
from lingbot.parallel.ulysses import SequenceParallelGroup
from lingbot.vae.codec import build_tiny
from lingbot.vae.tiny import DecoderState
from lingbot.verify.recorded import Errors, read_recorded, relative_error

TINY_CONFIG = "config.json"
TINY_FILE = "roundtrip.safetensors"
MAX_PARAMETERS = 2**28  # TAEHV has 11 million

CHUNK = 3  # latent frames that are decoded at a time

# F latent frames, T frames; Y X pixels of the encoded video.
INPUTS = {"latents": "1 F 16 h w", "video": "1 U 3 Y X"}
OUTPUTS = {"decoded": "1 T 3 H W", "encoded": "1 E 16 y x"}


class TinyConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The config.json of a golden folder: names and shapes of the tensors, and a seed."""

    seed: float
    parameters: dict[str, list[Positive]]


def verify_tiny_vae(folder: Path, group: SequenceParallelGroup) -> Errors:
    """Decode in chunks, and encode."""
    path = folder / TINY_CONFIG
    config = read_json(path, TinyConfig)
    if sum(map(math.prod, config.parameters.values())) > MAX_PARAMETERS:
        raise WeightsError(f"{path}: parameters are more than {MAX_PARAMETERS} numbers")
    recorded = read_recorded(folder / TINY_FILE, INPUTS, OUTPUTS)
    network = build_tiny(
        formula_weights(config.parameters, seed=config.seed),
        source=path,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    state = DecoderState()
    pieces = [network.decode(part, state) for part in recorded["latents"].split(CHUNK, dim=1)]
    yield "decoded", relative_error(torch.cat(pieces, dim=1), recorded["decoded"])
    yield "encoded", relative_error(network.encode(recorded["video"]), recorded["encoded"])


def formula_weights(parameters: Mapping[str, Sequence[int]], *, seed: float) -> dict[str, Tensor]:
    """The weights of the golden folder, whose README.md gives the formula."""
    weights = {}
    for i, (name, shape) in enumerate(sorted(parameters.items())):
        k = torch.arange(math.prod(shape), dtype=torch.float64)
        w = torch.sin((k + 1) * (12.9898 + 0.31 * i + seed)).reshape(tuple(shape))
        scaled = w * math.sqrt(6 / math.prod(shape[1:])) if len(shape) > 1 else 0.2 + 0.1 * w
        weights[name] = scaled.float()
    return weights
