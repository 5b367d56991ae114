"""Worker threads, counted by kind of work, so that no kind queues behind another."""

import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

NICENESS = 10  # of a worker: the event loop goes first where both want the same core

T = TypeVar("T")

_local = threading.local()


class CapacityLimits:
    """What may run at once. Every socket and every clip of the process shares it."""

    def __init__(self) -> None:
        self.encode = CapacityLimiter(num_cpus())  # of chunks that somebody waits for
        # Anybody may upload a picture, again and again, before there is a world to wait for.
        self.decode_image = CapacityLimiter(1)
        # Not the pictures' place: a clip holds a world while it encodes, and strangers' uploads
        # would keep that world from everybody. Nor the payloads': of a clip nobody sees a frame
        # before its end, so it yields to those who watch.
        self.clip = CapacityLimiter(1)


def num_cpus() -> int:
    """That this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


async def run_in_worker(call: Callable[[], T], *, limiter: CapacityLimiter) -> T:
    """``call()`` in a worker thread, once there is a place."""
    return await to_thread.run_sync(partial(_stand_back, call), limiter=limiter)


def _stand_back(call: Callable[[], T]) -> T:
    # Linux knows the priority of a thread; elsewhere its number may be another process's.
    if sys.platform == "linux" and not getattr(_local, "stands_back", False):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        _local.stands_back = True
    return call()
