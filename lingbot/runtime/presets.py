"""Presets to engines and text encoders."""

from pathlib import Path

import msgspec
import torch

from lingbot.config import PRESETS, ModelConfig, Preset, WorldConfig
from lingbot.dit.weights import load_dit
from lingbot.errors import LingbotError, WeightsError
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup
from lingbot.runtime.engine import Engine
from lingbot.runtime.fastest_dtype import fastest_dtype
from lingbot.text.pocket import HashedWordEncoder
from lingbot.text.protocol import TextEncoder
from lingbot.vae.codec import LatentCodec


def find_preset(name: str) -> Preset:
    """Raises LingbotError for an unknown preset."""
    if name not in PRESETS:
        raise LingbotError(
            f"unknown preset {name!r}, expected one of {sorted(PRESETS)}", field="preset"
        )
    return PRESETS[name]


def load_engine(
    preset: str,
    *,
    world: WorldConfig | None = None,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    camera_cache_bytes: int = 0,
    group: SequenceParallelGroup = SINGLE,
) -> Engine:
    """The engine of a preset, with the weights of its own folder or of the folder `weights`.

    `world` is what `Preset.configure` returned; None is the preset's own.
    `dtype` None is bfloat16 on a GPU, and on a CPU the type that rank 0 measures as the faster.
    Raises LingbotError for an unknown preset, or one that needs a weights folder and has none;
    WeightsError for a folder that cannot be read.
    """
    found = find_preset(preset)
    world = world or found.world
    folder = weights or found.folder
    if folder is None:
        raise LingbotError(f"preset {preset!r} needs a folder of weights", field="weights")
    device = torch.device(device)
    if dtype is None and device.type == "cuda":
        dtype = torch.bfloat16  # tensor cores need no measurement
    model = load_dit(folder, device=device, dtype=dtype or torch.float32, file=found.dit_file)
    check_shape(model.config, found, folder=folder)
    if dtype is None:
        # The ranks must agree, and no two measurements do.
        dtype = group.from_rank_0(lambda: fastest_dtype(model.config, world))
        model = model.to(dtype)
    return Engine(
        world,
        model=model.fuse(),
        vae=LatentCodec.load(folder / found.vae_file, device=device, dtype=dtype),
        camera_cache_bytes=camera_cache_bytes,
        group=group,
    )


def check_shape(shape: ModelConfig, preset: Preset, *, folder: Path) -> None:
    """Raise WeightsError, with both shapes, unless a folder's model is the preset's.

    A pocket world may be of any size: it has to take the contexts of the preset's text encoder.
    """
    found, expected = msgspec.to_builtins(shape), msgspec.to_builtins(preset.model)
    names = expected if preset.folder is None else ("text_dim", "text_len")
    if other := {name: expected[name] for name in names if found[name] != expected[name]}:
        has = ", ".join(f"{name} {found[name]}" for name in other)
        wants = ", ".join(f"{name} {value}" for name, value in other.items())
        raise WeightsError(
            f"{folder}: holds a model of {has}, but preset {preset.world.name!r} has {wants}"
        )


def load_text_encoder(preset: str) -> TextEncoder:
    """The text encoder of a preset. Raises LingbotError for an unknown preset."""
    found = find_preset(preset)
    match found.text_encoder:
        case "umt5":  # its own deployment encodes: see `deployments/text_encoder.py`
            raise LingbotError(f"preset {preset!r} has no text encoder in this process")
        case "hashed_words":
            return HashedWordEncoder(text_dim=found.model.text_dim, text_len=found.model.text_len)
