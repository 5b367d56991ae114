"""Histories and snapshots of small worlds whose latents are noise."""

import numpy as np

from lingbot.runtime.history import History
from lingbot.runtime.snapshot import Origin

ACTIONS = [["w", "wi", "i"], ["", "k", "kl"], ["jw", "jw", "jw"], ["", "", ""]]


def draw_latents(seed, *, num_frames=3, dtype=np.float32):
    latents = np.random.default_rng(seed).standard_normal((16, num_frames, 4, 6), np.float32)
    return latents if dtype == np.float32 else (latents.view(np.uint32) >> 16).astype(np.uint16)


def make_origin(**changes):
    """A world of the toy's size."""
    defaults = {"preset": "toy", "fingerprint": "f" * 32, "width": 48, "height": 32, "seed": 7,
                "num_steps": None, "window": 9, "sink": 3, "chunk": 3,
                "condition": draw_latents(99, num_frames=6)}  # fmt: skip
    return Origin(**{**defaults, **changes})


def make_history(
    num_chunks, *, origin=None, budget_bytes=2**30, prompts=None, recached=(), dtype=np.float32
):
    """`prompts` are new ones by chunk; each action list is another one than the last chunk's."""
    history = History(origin or make_origin(), prompt="a", budget_bytes=budget_bytes)
    for index in range(num_chunks):
        prompt = (prompts or {}).get(index)
        latents = draw_latents(index, dtype=dtype)
        history.append(latents, ACTIONS[index % len(ACTIONS)], prompt, recache=index in recached)
    return history


def is_same(a, b):
    """Whether two snapshots have the same fields and the same bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if hasattr(a, "__struct_fields__"):
        return all(is_same(getattr(a, name), getattr(b, name)) for name in a.__struct_fields__)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(is_same, a, b))
    return a == b
