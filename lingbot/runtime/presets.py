"""Presets to engines: which files a world is made of, and where they are."""

from pathlib import Path

import torch

from lingbot.config import PRESETS, PRESETS_FOLDER
from lingbot.dit.weights import load_dit
from lingbot.errors import LingbotError
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup
from lingbot.runtime.engine import Engine
from lingbot.text.pocket import PocketTextEncoder
from lingbot.vae.codec import LatentCodec

VAE_FILE = "tiny_vae.safetensors"


def fastest_dtype(device: torch.device | str) -> torch.dtype:
    """bfloat16 on GPUs and on processors that multiply it themselves, float32 elsewhere.

    By what the processor says of itself and not by a stopwatch: ranks on machines of one kind must
    agree. A config that names the type is right for mixed ones.
    """
    if torch.device(device).type == "cuda":
        return torch.bfloat16
    multiplies = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if multiplies else torch.float32


def load_engine(
    preset: str,
    *,
    weights: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    camera_cache_bytes: int = 0,
    group: SequenceParallelGroup = SINGLE,
) -> Engine:
    """The engine of a preset, with its own weights or with those of a folder in the same layout.

    ``dtype`` None takes the fastest.

    Raises LingbotError for an unknown preset, WeightsError for a folder that cannot be read.
    """
    if preset not in PRESETS:
        raise LingbotError(
            f"unknown preset {preset!r}, expected one of {sorted(PRESETS)}", field="preset"
        )
    folder = weights or PRESETS_FOLDER / preset
    device = torch.device(device)
    dtype = dtype or fastest_dtype(device)
    model = load_dit(folder, device=device, dtype=dtype)
    shape = model.config
    return Engine(
        PRESETS[preset],
        model=model,
        codec=LatentCodec.load(folder / VAE_FILE, device=device, dtype=dtype),
        text_encoder=PocketTextEncoder(text_dim=shape.text_dim, text_len=shape.text_len),
        camera_cache_bytes=camera_cache_bytes,
        group=group,
    )
