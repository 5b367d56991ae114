"""One chunk from noise to clean: a few denoising steps, then one pass that writes its K/V."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lingbot.dit.conditioner import ConditionerMaps
from lingbot.dit.kv_cache import KVWindow, ShardedWindow
from lingbot.dit.model import ChunkInputs, TextKV, WorldModel
from lingbot.dit.schedule import DenoisingStep, add_noise, flow_to_x0
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup


def prepare_next_chunk(
    model: WorldModel,
    window: KVWindow,
    *,
    condition: Tensor,
    maps: ConditionerMaps,
    text: Sequence[TextKV],
    group: SequenceParallelGroup = SINGLE,
    rope_scale: tuple[float, float] = (1.0, 1.0),
) -> ChunkInputs:
    """The inputs of the chunk after the window's past; see `WorldModel.prepare_chunk`.

    condition is [1, 20, F, h, w]. The window is that of the rank's heads. Its keys turn back if the
    chunk would pass the last position.
    """
    num_frames = condition.shape[2]
    window.make_room(num_frames)
    return model.prepare_chunk(
        condition=condition,
        positions=window.next_positions(num_frames),
        maps=maps,
        text=text,
        kv_cache=ShardedWindow(window.for_chunk(num_frames), group),
        group=group,
        rope_scale=rope_scale,
    )


def sample_chunk(
    model: WorldModel,
    chunk: ChunkInputs,
    *,
    noise: Tensor,
    renoise: Callable[[int], Tensor],
    steps: Sequence[DenoisingStep],
    observe: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Generate a chunk and write its K/V; return its clean latents, [1, 16, F, h, w].

    noise [1, 16, F, h, w]; `renoise(i)` returns the noise added after step i; `observe(i, flow)`
    receives each step's prediction. Every rank is given the same noise.
    """
    x = noise
    for i, step in enumerate(steps):
        if i:
            x = add_noise(x, renoise(i - 1), step.renoise_sigma)
        timestep = torch.full((1, x.shape[2]), float(step.timestep), device=x.device)
        flow = model(x, timestep, chunk)
        if observe is not None:
            observe(i, flow)
        x = flow_to_x0(x, flow, step.sigma)
    model.write_cache(x, chunk)
    return x
