"""A line in the log now and then while a long file is read."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

GB = 1e9


@dataclass(slots=True)
class LoadProgress:
    """Counts the bytes of a load, and logs them every `every_s` seconds."""

    total: int  # bytes
    every_s: float
    clock: Callable[[], float] = time.monotonic
    read: int = 0  # bytes
    started: float = field(init=False)
    logged: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.logged = self.clock()

    def add(self, num_bytes: int) -> None:
        """Count bytes that have been read. Loads shorter than `every_s` log nothing."""
        self.read += num_bytes
        now = self.clock()
        if now - self.logged < self.every_s or now == self.started:
            return
        self.logged = now
        elapsed = now - self.started
        logger.info(
            "loading weights: %.1f of %.1f GB, %.2f GB/s, %.0f s left",
            self.read / GB,
            self.total / GB,
            self.read / GB / elapsed,
            elapsed * (self.total - self.read) / max(self.read, 1),
        )
