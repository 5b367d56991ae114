"""How late the event loop is: what is felt by every socket that shares it."""

import math
import time
from collections import deque
from dataclasses import dataclass, field

import anyio
from msgspec import Struct

EVERY_S = 0.02
KEPT = 3000  # samples: at this pace the last minute


class EventLoopLagStats(Struct, frozen=True):
    """Milliseconds by which a timer of the loop came late, over the samples that are kept."""

    p50: float
    p99: float
    max: float


@dataclass(slots=True)
class EventLoopLag:
    """A timer that notes how late it comes."""

    every_s: float = EVERY_S
    _samples: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    async def run(self) -> None:
        while True:
            deadline = (
                time.monotonic() + self.every_s
            )  # a loop's own clock may stand still for a while
            await anyio.sleep(self.every_s)
            self._samples.append(max(0.0, time.monotonic() - deadline))

    def figures(self) -> EventLoopLagStats | None:
        """None before the first sample."""
        samples = sorted(self._samples)
        if not samples:
            return None

        def at(share: float) -> float:
            return round(1000 * samples[math.ceil(share * len(samples)) - 1], 3)

        return EventLoopLagStats(p50=at(0.5), p99=at(0.99), max=at(1.0))
