"""Waiting for what another thread or process does. A busy machine takes its time."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

TIMEOUT_S = 60  # for what takes a moment on an idle machine


def wait_until(
    condition: Callable[[], Found], *, timeout_s: float = 200, every_s: float = 0.01
) -> Found:
    """What `condition` returns as soon as it is true. Fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not true within {timeout_s} s"
        time.sleep(every_s)
    return found


async def until(condition: Callable[[], object]) -> None:
    """`wait_until` for what happens on the same event loop."""
    while not condition():
        await asyncio.sleep(0.001)
