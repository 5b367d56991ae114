"""The number type in which a machine computes a world fastest, by a stopwatch at load."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from msgspec.structs import replace
from torch import Tensor

from lingbot.config import ModelConfig, WorldConfig
from lingbot.dit.kv_cache import KVWindow
from lingbot.dit.layers import rope_freqs
from lingbot.dit.model import Block
from lingbot.dit.precision import cast_weights

DTYPES = (torch.float32, torch.bfloat16)
NUM_ROUNDS = 5  # the first one warms up

logger = logging.getLogger(__name__)


def fastest_dtype(model: ModelConfig, world: WorldConfig) -> torch.dtype:
    """The type in which this machine's CPU computes `model` faster. Runs ten blocks of it.

    A processor's feature flags do not answer this: with AVX-512 BF16 and without AMX a product can
    be slower in bfloat16. One block is a fair sample: it has linear layers, attention and
    conversions in the proportions of a chunk, at the size that is served.
    """
    least_s = measure([prepare_block(model, world, dtype) for dtype in DTYPES])
    fastest = DTYPES[least_s.index(min(least_s))]
    figures = [f"{name_of(d)} {1000 * s:.1f} ms" for d, s in zip(DTYPES, least_s, strict=True)]
    threads = torch.get_num_threads()
    logger.info(
        "%s is faster: a block takes %s (threads: %d)",
        name_of(fastest),
        ", ".join(figures),
        threads,
    )
    return fastest


def measure(runs: Sequence[Callable[[], object]]) -> list[float]:
    """The least time of each call in seconds. They take turns, so that other load hits all."""
    times_s = []
    for _ in range(NUM_ROUNDS):
        for run in runs:
            began = time.perf_counter()
            run()
            times_s.append(time.perf_counter() - began)
    return [min(times_s[i :: len(runs)]) for i in range(len(runs))]


@torch.inference_mode()
def prepare_block(
    model: ModelConfig, world: WorldConfig, dtype: torch.dtype
) -> Callable[[], Tensor]:
    """A call that runs a block of `model` in `dtype`, on a chunk whose KV window is full."""
    F, (rows, columns), C = world.chunk, world.grid, model.dim
    block = cast_weights(Block(model), dtype)
    block.self_attn.fuse()
    window = KVWindow.empty(
        replace(model, num_layers=1),
        window=world.window,
        sink=world.sink,
        chunk=F,
        tokens=rows * columns,
        device=torch.device("cpu"),
        dtype=dtype,
    )
    window.advance(world.window - F)
    camera_tokens = torch.randn(1, F, rows * columns, C, dtype=dtype)
    run = partial(
        block,
        torch.randn(1, F, rows * columns, C),
        torch.randn(1, F, 6, C),
        layer=0,
        rope=rope_freqs(torch.arange(F), grid=world.grid, head_dim=model.head_dim),
        maps=block.camera.compute_scale_shift(camera_tokens),
        text=block.cross_attn.compute_kv(torch.randn(1, model.text_len, C, dtype=dtype)),
        kv_cache=window.for_chunk(F),
    )
    return torch.inference_mode()(run)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
