"""The engine of a rank, from the config. torch is imported on call.

Tested in `tests/deployments/test_build_engine.py`.
"""

from typing import TYPE_CHECKING

from deployments.config import ServiceConfig

if TYPE_CHECKING:
    from lingbot.parallel.ulysses import SequenceParallelGroup
    from lingbot.runtime.engine import Engine


def build_engine(
    config: ServiceConfig, group: "SequenceParallelGroup", *, num_cpus: float | None = None
) -> "Engine":
    """The engine that a config names, on this rank of `group`. Sets torch's thread count.

    `num_cpus` is what the group's ranks have together; None: all of this machine.
    """
    from pathlib import Path

    import torch

    from lingbot.runtime.cpu_cores import threads_per_rank
    from lingbot.runtime.presets import load_engine

    threads = config.threads
    if threads == "auto":
        threads = threads_per_rank(group.num_ranks, num_cpus=num_cpus)
    torch.set_num_threads(threads)
    return load_engine(
        config.preset,
        world=config.world,
        weights=None if config.weights is None else Path(config.weights),
        assets=None if config.assets is None else Path(config.assets),
        vae=config.vae,
        tiny_vae=None if config.tiny_vae is None else Path(config.tiny_vae),
        device=config.device,
        dtype=None if config.dtype == "auto" else getattr(torch, config.dtype),
        camera_cache_bytes=config.camera_cache_bytes,
        other_gpu_bytes=config.other_gpu_bytes or 0,
        group=group,
        attention=config.attention,
        compile=config.compile,
        fp8=config.fp8,
    )
