"""The warm-up of a group: every shape is run once, and the group's speed is measured.

Tested in `tests/lingbot/runtime/test_worker.py`.
"""

import math

import numpy as np

from lingbot.config import Size
from lingbot.runtime.commands import CloseSession, OpenSession, StepSession
from lingbot.runtime.session import SessionSpec
from lingbot.runtime.worker import Worker

NUM_MEASURED = 3  # chunks of each size


def warm_up(worker: Worker) -> None:
    """On rank 0, while `worker.run` is running: run every shape, and measure the group's speed.

    Each chunk is decoded while the next one is denoised, as in play. Measured are the chunks after
    those that compile: the window has wrapped by then.
    """
    worker.is_warming_up = True
    for size in worker.engine.config.sizes:
        _warm_up(worker, size)
    worker.is_warming_up = False


def _warm_up(worker: Worker, size: Size) -> None:
    config, name, first = worker.engine.config, f"warm-up {size}", -math.inf
    grey = np.full((size.height, size.width, 3), 128, np.uint8)
    spec = SessionSpec(first_frame=grey)
    worker.submit(OpenSession(name, spec), deadline=first).result()
    decoding = []
    for index in range(-(-config.window // config.chunk) + 1 + NUM_MEASURED):
        # A chunk of one pose has other shapes than a chunk of several.
        step = StepSession(
            session_id=name, actions=[["", "w"][index % 2]] + [""] * (config.chunk - 1)
        )
        decoding.append(worker.submit(step, deadline=first).result())
    for chunk in decoding:
        chunk.result()
    worker.submit(CloseSession(name), deadline=first).result()
