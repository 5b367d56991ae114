import numpy as np
import pytest

from deployments.config import ServiceConfig
from deployments.history_budget import budget_of
from lingbot.runtime.history import History
from lingbot.runtime.snapshot import Origin


def origin_of(config, dtype):
    world = config.world
    size = world.largest_size
    return Origin(
        preset=config.preset,
        fingerprint="f",
        width=size.width,
        height=size.height,
        seed=1,
        num_steps=None,
        window=world.window,
        sink=world.sink,
        chunk=world.chunk,
        condition=np.zeros((16, world.chunk, *size.latent), dtype),
    )


@pytest.mark.parametrize(
    "preset, dtype, most", [("pocket", np.float32, 13e6), ("v2-14b", np.uint16, 100e6)]
)
def test_a_shipped_history_has_two_minutes_of_any_preset(preset, dtype, most):
    config = ServiceConfig(preset=preset)
    origin = origin_of(config, dtype)
    budget = budget_of(origin, config)
    assert budget < 1.01 * most
    history = History(origin, prompt="snow", budget_bytes=budget)
    latents = np.broadcast_to(origin.condition[:1, :1, :1, :1], origin.condition.shape)
    chunk_s = config.world.chunk_frames / config.world.fps
    for _ in range(int(300 / chunk_s)):
        history.append(latents, ["w"] * origin.chunk, None)
    can_rewind_s = (history.next_chunk - history.earliest) * chunk_s
    assert 120 - chunk_s <= can_rewind_s <= 120 + chunk_s


def test_bytes_bound_a_history_too():
    config = ServiceConfig(history_bytes=1000)
    assert budget_of(origin_of(config, np.float32), config) == 1000
