"""Presets to engines and text encoders."""

from pathlib import Path

import torch

from lingbot.config import PRESETS, Preset
from lingbot.dit.weights import load_dit
from lingbot.errors import LingbotError, WeightsError
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup
from lingbot.runtime.engine import Engine
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


def fastest_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 on GPUs and on processors with bfloat16 products, float32 elsewhere.

    The processor's feature flags decide, not a measurement: ranks on machines of one kind must
    agree. With mixed machines the config must name the type.
    """
    if torch.device(device).type == "cuda":
        return torch.bfloat16
    has_products = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_products else torch.float32


def load_engine(
    preset: str,
    *,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    camera_cache_bytes: int = 0,
    group: SequenceParallelGroup = SINGLE,
) -> Engine:
    """The engine of a preset, with the weights of its own folder or of the folder `weights`.

    `dtype` None is `fastest_dtype`. Raises LingbotError for an unknown preset, or one that needs a
    weights folder and has none; WeightsError for a folder that cannot be read.
    """
    found = find_preset(preset)
    folder = weights or found.folder
    if folder is None:
        raise LingbotError(f"preset {preset!r} needs a folder of weights", field="weights")
    device = torch.device(device)
    dtype = dtype or fastest_dtype(device)
    model = load_dit(folder, device=device, dtype=dtype, file=found.dit_file)
    text_shape = (model.config.text_len, model.config.text_dim)
    if text_shape != (found.text_len, found.text_dim):
        raise WeightsError(
            f"{folder}: text_len and text_dim must be {found.text_len} and {found.text_dim}, "
            f"not {text_shape[0]} and {text_shape[1]}"
        )
    return Engine(
        found.world,
        model=model,
        vae=LatentCodec.load(folder / found.vae_file, device=device, dtype=dtype),
        camera_cache_bytes=camera_cache_bytes,
        group=group,
    )


def load_text_encoder(preset: str) -> TextEncoder:
    """The text encoder of a preset. Raises LingbotError for an unknown preset."""
    found = find_preset(preset)
    match found.text_encoder:
        case "hashed_words":
            return HashedWordEncoder(text_dim=found.text_dim, text_len=found.text_len)
