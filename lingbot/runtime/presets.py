"""Presets to engines and text encoders."""

import logging
import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from msgspec.structs import replace

from lingbot.checkpoint.expected import check_shape
from lingbot.checkpoint.layout import Checkpoint, find_checkpoint
from lingbot.config import PRESETS, ModelConfig, Preset, VaeKind, WorldConfig
from lingbot.dit.attention import (
    AttentionBackend,
    check_backend,
    choose_backend,
    find_lack,
    find_obstacle,
)
from lingbot.dit.fp8 import check_fp8, quantise_blocks
from lingbot.dit.model import WorldModel
from lingbot.dit.weights import load_dit
from lingbot.errors import LingbotError
from lingbot.memory_plan import MemoryPlan, plan_memory
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup
from lingbot.runtime.engine import Engine
from lingbot.runtime.fastest_dtype import fastest_dtype
from lingbot.runtime.fingerprint import fingerprint_of
from lingbot.runtime.free_memory import free_for_rank
from lingbot.text.pocket import HashedWordEncoder
from lingbot.vae.codec import LatentCodec, load_tiny_vae
from lingbot.vae.protocol import VAE
from lingbot.vae.split import SplitVAE
from lingbot.vae.wan import load_wan_vae

logger = logging.getLogger(__name__)

COMPILERS = ("g++", "gcc", "clang++", "c++")


class ComputeTarget(NamedTuple):
    """The hardware of a rank, and the type in which it computes."""

    device: torch.device
    dtype: torch.dtype
    group: SequenceParallelGroup
    other_bytes: int  # other processes take them of the GPU


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
    assets: Path | None = None,
    vae: VaeKind | None = None,
    tiny_vae: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    camera_cache_bytes: int = 0,
    other_gpu_bytes: int = 0,
    group: SequenceParallelGroup = SINGLE,
    attention: AttentionBackend | Literal["auto"] = "auto",
    compile: bool = False,
    fp8: bool = False,
) -> Engine:
    """The engine of a preset, with the weights of its own folder or of the folder `weights`.

    `world` is what `Preset.configure` returned; None is the preset's own. `assets` is a folder of
    parts that `weights` lacks, and `tiny_vae` a file of the tiny VAE. `dtype` None is bfloat16 on a
    GPU, and on a CPU the type that rank 0 measures as the faster. Other processes take
    `other_gpu_bytes` of the GPU.
    `attention` "auto" is the fastest kernel that runs here; `compile` compiles the blocks in their
    first chunks; `fp8` runs their linear layers in 8 bits.
    Raises LingbotError for an unknown preset or one without weights, a switch that this device does
    not support, and a world that does not fit; WeightsError for a folder that cannot be read.
    """
    found, device = find_preset(preset), torch.device(device)
    world, vae = world or found.world, found.choose_vae(vae)
    folder, checkpoint = open_checkpoint(found, weights=weights, assets=assets)
    check_switches(device, dtype, compile=compile, fp8=fp8)
    dtype = dtype or choose_dtype(checkpoint.config, world, device=device, group=group)
    target = ComputeTarget(device, dtype, group, other_gpu_bytes)
    plan = check_memory(checkpoint, found, world, vae, target, cache_bytes=camera_cache_bytes)
    # These may refuse, so they come before minutes of reading.
    backend = choose_attention(attention, checkpoint, target)
    autoencoder = load_vae(found, checkpoint, vae, folder=folder, tiny_vae=tiny_vae, target=target)
    model = load_dit(checkpoint, device=device, dtype=dtype)
    fingerprint = fingerprint_of(model, world)  # before layers are fused
    return Engine(
        world,
        fingerprint=fingerprint,
        model=speed_up(model, compile=compile, fp8=fp8),
        vae=autoencoder,
        camera_cache_bytes=camera_cache_bytes,
        group=group,
        attention=backend,
        memory=plan,
    )


def open_checkpoint(
    preset: Preset, *, weights: Path | None, assets: Path | None
) -> tuple[Path, Checkpoint]:
    """`weights`, or the preset's own folder, and the checkpoint in it.

    Raises LingbotError where there is neither, and WeightsError for one that cannot be read or has
    another model.
    """
    folder = weights or preset.folder
    if folder is None:
        name = preset.world.name
        raise LingbotError(f"preset {name!r} needs a folder of weights", field="weights")
    checkpoint = find_checkpoint(folder / preset.dit_file, assets=assets)
    check_shape(checkpoint.config, preset, folder=folder)
    return folder, checkpoint


def check_memory(
    checkpoint: Checkpoint,
    preset: Preset,
    world: WorldConfig,
    vae: VaeKind,
    target: ComputeTarget,
    *,
    cache_bytes: int,
) -> MemoryPlan:
    """The memory plan of this rank. Raises LingbotError for a world that does not fit.

    `cache_bytes` is the budget of the camera cache.
    """
    plan = plan_memory(
        replace(preset, model=checkpoint.config),
        world,
        vae=vae,
        itemsize=target.dtype.itemsize,
        camera_cache_bytes=cache_bytes,
        num_ranks=target.group.num_ranks,
        is_gpu=target.device.type == "cuda",
        free=free_for_rank(target.device, target.group, other_bytes=target.other_bytes),
        other_bytes=target.other_bytes,
    )
    plan.check()
    logger.info("%s", plan)
    if 0 < plan.camera_cache < plan.camera_map:
        logger.warning(
            "camera_cache_bytes %d stores nothing: a pose takes %d",
            plan.camera_cache,
            plan.camera_map,
        )
    return plan


def choose_attention(
    attention: AttentionBackend | Literal["auto"], checkpoint: Checkpoint, target: ComputeTarget
) -> AttentionBackend:
    """The kernel that a config names. Raises LingbotError for one that cannot run here."""
    head_dim = checkpoint.config.head_dim
    find = partial(find_obstacle, device=target.device, dtype=target.dtype, head_dim=head_dim)
    return choose_backend(attention, find)


def load_vae(
    preset: Preset,
    checkpoint: Checkpoint,
    kind: VaeKind,
    *,
    folder: Path,
    tiny_vae: Path | None,
    target: ComputeTarget,
) -> VAE:
    """The VAE of a world with weights in `folder`; `tiny_vae` is the file of one that decodes.

    A published model was trained on images that the full VAE encoded. If a tiny one decodes, the
    full one still encodes, provided that the checkpoint has it. Raises WeightsError for a file that
    is missing or damaged.
    """
    device, dtype = target.device, target.dtype
    if preset.vae_file:
        return LatentCodec.load(folder / preset.vae_file, device=device, dtype=dtype)
    if kind == "full":
        return load_wan_vae(checkpoint.require("vae"), device=device, dtype=dtype)
    path = tiny_vae or checkpoint.require("tiny_vae")
    tiny = load_tiny_vae(path, device=device, dtype=dtype)
    if checkpoint.vae is None:
        logger.warning("the tiny VAE encodes first frames, too: %s", checkpoint.missing["vae"])
        return tiny
    return SplitVAE(load_wan_vae(checkpoint.vae, device=device, dtype=dtype), tiny)


def choose_dtype(
    shape: ModelConfig, world: WorldConfig, *, device: torch.device, group: SequenceParallelGroup
) -> torch.dtype:
    """The type in which a device computes a model faster."""
    if device.type == "cuda":
        return torch.bfloat16  # tensor cores need no measurement
    # The ranks must agree, and no two measurements do.
    return group.from_rank_0(lambda: fastest_dtype(shape, world))


def check_switches(
    device: torch.device,
    dtype: torch.dtype | None,
    *,
    attention: AttentionBackend | Literal["auto"] = "auto",
    compile: bool = False,
    fp8: bool = False,
) -> None:
    """Raise LingbotError, before anything is loaded or run, for a switch that cannot work here."""
    if attention != "auto":
        check_backend(attention, obstacle=find_lack(attention, device=device))
    if fp8:
        check_fp8(device, dtype or torch.bfloat16)
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


def load_text_encoder(preset: str) -> HashedWordEncoder:
    """The text encoder of a preset. Raises LingbotError for an unknown preset."""
    found = find_preset(preset)
    match found.text_encoder:
        case "umt5":  # its own deployment encodes: see `deployments/text_encoder.py`
            raise LingbotError(f"preset {preset!r} has no text encoder in this process")
        case "hashed_words":
            return HashedWordEncoder(text_dim=found.model.text_dim, text_len=found.model.text_len)
