"""Freed memory that the C library keeps, given back to the system.

Payloads are encoded in many threads. glibc has an arena for each, which keeps most of what its
thread frees: a process that serves for hours would hold ever more.
"""

import ctypes
from collections.abc import Callable

import anyio
from anyio import to_thread

EVERY_S = 60.0


def find_trim() -> Callable[[int], int] | None:
    """The C library's `malloc_trim`; None where it has none."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim


async def give_back(every_s: float = EVERY_S) -> None:
    """Gives freed memory back every `every_s` until it is cancelled, beside the event loop."""
    if (trim := find_trim()) is None:
        return
    while True:
        await anyio.sleep(every_s)
        await to_thread.run_sync(trim, 0)
