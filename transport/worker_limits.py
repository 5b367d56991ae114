"""Limits on worker threads, one for each kind of work, so that no kind waits for another."""

import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

NICENESS = 10  # of a worker: the event loop goes first if both want the same core

T = TypeVar("T")

_local = threading.local()


class CapacityLimits:
    """The workers of one process. All of its sockets and clips share them."""

    def __init__(self) -> None:
        self.encode = CapacityLimiter(num_cpus())  # chunks of live sessions
        # Anyone may upload images and snapshots, again and again, before a world is open.
        self.decode_image = CapacityLimiter(1)
        # Clips have their own limiter: they hold a world while encoding, so uploads must not delay
        # them, and they must not delay live sessions.
        self.clip = CapacityLimiter(1)


def num_cpus() -> int:
    """The number of CPUs that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


async def run_in_worker(call: Callable[[], T], *, limiter: CapacityLimiter) -> T:
    """Returns the result of `call()`, which runs in a worker thread once the limiter allows it."""
    return await to_thread.run_sync(partial(_lower_priority, call), limiter=limiter)


def _lower_priority(call: Callable[[], T]) -> T:
    # On Linux a thread has a priority of its own. Elsewhere its id may be that of another process.
    if sys.platform == "linux" and not getattr(_local, "has_low_priority", False):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        _local.has_low_priority = True
    return call()
