import numpy as np
import torch

from lingbot.runtime.noise import draw_noise

SHAPE = (1, 16, 3, 16, 26)


def draw(seed=7, chunk=2, num_steps=3):
    return draw_noise(seed, chunk=chunk, num_steps=num_steps, shape=SHAPE)


def test_noise_is_a_function_of_seed_chunk_and_step():
    assert torch.equal(draw(), draw())
    assert torch.equal(draw(num_steps=2), draw()[:2])
    drawn = [draw(seed, chunk)[step] for seed in (7, 8) for chunk in (2, 3) for step in (0, 1)]
    unequal = [not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i]]
    assert len(unequal) == 28 and all(unequal)


def test_seeds_of_64_bits_and_negative_ones_differ():
    seeds = (0, -1, 2**32, 2**63, -(2**63) + 1)
    drawn = [draw(seed)[0, 0, 0, 0, 0].tolist() for seed in seeds]
    assert len(set(map(tuple, drawn))) == len(seeds)
    assert torch.equal(draw(-1), draw(2**64 - 1))


def test_noise_is_normal():
    drawn = draw(num_steps=8).numpy()
    assert drawn.dtype == np.float32 and drawn.shape == (8, *SHAPE)
    assert abs(drawn.mean()) < 0.01 and abs(drawn.std() - 1) < 0.01
    flat = drawn.reshape(8, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(8)).max() < 0.05
