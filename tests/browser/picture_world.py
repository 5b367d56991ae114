"""A fake world with real pictures: a view that moves over an opening of the pocket world."""

from functools import cache
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from msgspec.structs import replace
from PIL import Image

from tests.transport.fake_world import FakeWorld
from transport.codecs.payload import Frames

OPENING = Path(__file__).parents[2] / "lingbot/presets/pocket/openings/pines.png"
SIZE = (208, 128)  # of the pocket world
PERIOD_FRAMES = 96
SNAPSHOT_BYTES = 300_000  # of the pocket world


class PictureWorld(FakeWorld):
    """Chunks of 12 frames at 16 frames/s; each takes `step_s`. A saved world cannot be opened."""

    def __init__(self, *, step_s: float) -> None:
        super().__init__(size=SIZE)
        self.info = replace(self.info, fps=16)
        self.paint = paint
        self.step_s = step_s

    async def open(self, *arguments: Any, **options: Any) -> Any:
        session = await super().open(*arguments, **options)
        step = session.step

        async def slow_step(*arguments: Any, **options: Any) -> Any:
            await anyio.sleep(self.step_s)
            return await step(*arguments, **options)

        async def save() -> bytes:
            return bytes(SNAPSHOT_BYTES)

        session.step, session.save = slow_step, save
        return session


def paint(shape: tuple[int, ...], index: int) -> Frames:
    """The frames of a chunk, of the shape [T, H, W, 3]."""
    views = paint_views()
    return views[np.arange(index * 12, index * 12 + shape[0]) % len(views)]


@cache
def paint_views() -> Frames:
    """A zoom and a pan that end where they began."""
    width, height = SIZE
    picture = Image.open(OPENING).convert("RGB").resize((2 * width, 2 * height))
    views = []
    for turn in np.linspace(0, 2 * np.pi, PERIOD_FRAMES, endpoint=False):
        zoom = 1.4 + 0.4 * np.cos(turn)
        left = (2 - zoom) * width * (0.5 + 0.5 * np.sin(turn))
        top = (2 - zoom) * height / 2
        box = (left, top, left + zoom * width, top + zoom * height)
        views.append(np.asarray(picture.resize(SIZE, Image.Resampling.BICUBIC, box)))
    return np.stack(views)
