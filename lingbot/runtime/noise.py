"""The noise of a world: a function of its seed, the chunk and the step, and of nothing else.

A world that is rebuilt, turned back or moved therefore goes on with the noise that it would have
had. Tested in `tests/lingbot/runtime/test_noise.py`.
"""

import numpy as np
import torch
from torch import Tensor


def draw_noise(seed: int, *, chunk: int, num_steps: int, shape: tuple[int, ...]) -> Tensor:
    """Normal noise of all steps of one chunk, [S, *shape] float32 on the CPU.

    The seed is taken modulo 2**64. Each step has a generator of its own, so that the number of
    steps changes none of them.
    """
    noise = np.empty((num_steps, *shape), np.float32)
    for step, drawn in enumerate(noise):
        sequence = np.random.SeedSequence(seed % 2**64, spawn_key=(chunk, step))
        np.random.default_rng(sequence).standard_normal(dtype=np.float32, out=drawn)
    return torch.from_numpy(noise)
