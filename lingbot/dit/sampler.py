"""One chunk from noise to clean: a few denoising steps, then one pass that remembers the result."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lingbot.dit.conditioner import Camera
from lingbot.dit.kv_cache import KVWindow, ShardedWindow
from lingbot.dit.model import TextKV, WorldModel
from lingbot.dit.schedule import Step, add_noise, flow_to_x0
from lingbot.parallel.ulysses import SINGLE, SequenceParallelGroup


def sample_chunk(
    model: WorldModel,
    *,
    noise: Tensor,
    renoise: Callable[[int], Tensor],
    condition: Tensor,
    camera: Camera,
    text: Sequence[TextKV],
    window: KVWindow,
    steps: Sequence[Step],
    group: SequenceParallelGroup = SINGLE,
    observe: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """The clean latents of the next chunk, [1, 16, F, h, w], now part of the window.

    noise [1, 16, F, h, w]; ``renoise(i)`` gives the noise added after step i; condition
    [1, 20, F, h, w]; ``observe(i, flow)`` sees each step's prediction. All of ``ranks`` are given
    the same, but for ``camera`` and ``window``, which are of their share.
    """
    memory = ShardedWindow(window, group)
    num_frames = noise.shape[2]
    first = window.num_frames
    positions = torch.arange(first, first + num_frames, device=noise.device)
    x = noise
    for i, step in enumerate(steps):
        if i:
            x = add_noise(x, renoise(i - 1), step.renoise_sigma)
        timestep = torch.full((1, num_frames), float(step.timestep), device=noise.device)
        flow = model(
            x,
            condition=condition,
            timestep=timestep,
            positions=positions,
            camera=camera,
            text=text,
            memory=memory,
            group=group,
        )
        if observe is not None:
            observe(i, flow)
        x = flow_to_x0(x, flow, step.sigma)
    model.write_cache(
        x,
        condition=condition,
        positions=positions,
        camera=camera,
        text=text,
        memory=memory,
        group=group,
    )
    window.advance(num_frames)
    return x
