"""A server of fake worlds whose frames show colours that move."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
from msgspec.structs import replace

from tests.browser.fake_server import FPS, serve_page
from tests.transport.fake_world import FakeWorld
from transport.codecs.payload import Frames

WIDTH, HEIGHT = 208, 128


def paint(shape: tuple[int, ...], index: int) -> Frames:
    """Frames [T, H, W, 3] of one chunk: smooth colours that wander. `index` counts from 1."""
    num_frames, height, width, _ = shape
    times = (12 * index + np.arange(num_frames))[:, None, None] / 24
    rows, columns = np.mgrid[:height, :width] * np.array([3 / height, 5 / width])[:, None, None]
    waves = [np.sin(2 * np.pi * (times * 0.5 + columns + shift * rows)) for shift in (0, 0.5, 1)]
    return np.stack([(127 + 90 * wave).astype(np.uint8) for wave in waves], axis=-1)


@contextmanager
def serve_painted_worlds() -> Iterator[SimpleNamespace]:
    """The whole transport around a fake world: `.http` and `.world`."""
    world = FakeWorld(size=(WIDTH, HEIGHT))
    world.info = replace(world.info, fps=FPS)
    world.paint = paint
    with serve_page(world) as running:
        yield running
