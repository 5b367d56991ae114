"""Presets to engines and text encoders."""

import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from lingbot.config import PRESETS, Preset
from lingbot.dit.attention import AttentionBackend, choose_backend, find_obstacle
from lingbot.dit.fp8 import check_fp8, quantise_blocks
from lingbot.dit.model import WorldModel
from lingbot.dit.precision import cast_weights
from lingbot.dit.weights import load_dit
from lingbot.errors import LingbotError, WeightsError
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup
from lingbot.runtime.engine import Engine
from lingbot.runtime.fastest_dtype import fastest_dtype
from lingbot.text.pocket import HashedWordEncoder
from lingbot.text.protocol import TextEncoder
from lingbot.vae.codec import LatentCodec

COMPILERS = ("g++", "gcc", "clang++", "c++")


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
    weights: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    camera_cache_bytes: int = 0,
    group: SequenceParallelGroup = SINGLE,
    attention: AttentionBackend | Literal["auto"] = "auto",
    compile: bool = False,
    fp8: bool = False,
) -> Engine:
    """The engine of a preset, with the weights of its own folder or of the folder `weights`.

    `dtype` None is bfloat16 on a GPU, and on a CPU the type that rank 0 measures as the faster.
    `attention` "auto" is the fastest kernel that runs here; `compile` compiles the blocks in their
    first chunks; `fp8` runs their linear layers in 8 bits. Raises LingbotError for an unknown
    preset, for one that needs a weights folder and has none, and for a switch that this device does
    not support; WeightsError for a folder that cannot be read.
    """
    found = find_preset(preset)
    folder = weights or found.folder
    if folder is None:
        raise LingbotError(f"preset {preset!r} needs a folder of weights", field="weights")
    device = torch.device(device)
    if dtype is None and device.type == "cuda":
        dtype = torch.bfloat16  # tensor cores need no measurement
    check_switches(device, dtype or torch.float32, compile=compile, fp8=fp8)
    model = load_dit(folder, device=device, dtype=dtype or torch.float32, file=found.dit_file)
    text_shape = (model.config.text_len, model.config.text_dim)
    if text_shape != (found.text_len, found.text_dim):
        raise WeightsError(
            f"{folder}: text_len and text_dim must be {found.text_len} and {found.text_dim}, "
            f"not {text_shape[0]} and {text_shape[1]}"
        )
    if dtype is None:
        # The ranks must agree, and no two measurements do.
        dtype = group.from_rank_0(lambda: fastest_dtype(model.config, found.world))
        model = cast_weights(model, dtype)
    find = partial(find_obstacle, device=device, dtype=dtype, head_dim=model.config.head_dim)
    return Engine(
        found.world,
        model=speed_up(model, compile=compile, fp8=fp8),
        vae=LatentCodec.load(folder / found.vae_file, device=device, dtype=dtype),
        camera_cache_bytes=camera_cache_bytes,
        group=group,
        attention=choose_backend(attention, find),
    )


def check_switches(device: torch.device, dtype: torch.dtype, *, compile: bool, fp8: bool) -> None:
    """Raise LingbotError, before weights are loaded, for a switch that cannot work here."""
    if fp8:
        check_fp8(device, dtype)
    if not compile:
        return
    if device.type == "cuda" and find_spec("triton") is None:
        raise LingbotError("compile needs the module triton", field="compile")
    if not any(map(shutil.which, COMPILERS)):
        raise LingbotError(f"compile needs one of {', '.join(COMPILERS)}", field="compile")


def speed_up(model: WorldModel, *, compile: bool, fp8: bool) -> WorldModel:
    """The model with fused or 8-bit layers, and with compiled blocks, in place."""
    model = quantise_blocks(model) if fp8 else model.fuse()
    return model.compile_blocks() if compile else model


def load_text_encoder(preset: str) -> TextEncoder:
    """The text encoder of a preset. Raises LingbotError for an unknown preset."""
    found = find_preset(preset)
    match found.text_encoder:
        case "hashed_words":
            return HashedWordEncoder(text_dim=found.text_dim, text_len=found.text_len)
