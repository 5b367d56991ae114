"""The lag of the event loop, which delays every socket that shares it."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
from msgspec import Struct

EVERY_S = 0.02
MAX_SAMPLES = 3000  # the last minute, at EVERY_S


class EventLoopLagStats(Struct, frozen=True):
    """Milliseconds by which a timer was late, over the latest samples."""

    p50: float
    p99: float
    max: float


@dataclass(slots=True)
class EventLoopLag:
    """A timer that records how late it fires."""

    every_s: float = EVERY_S
    on_sample: Callable[[float], None] = lambda lag_s: None  # receives each one
    _samples_s: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))

    async def run(self) -> None:
        """Records until it is cancelled."""
        while True:
            # Not the loop's own clock, which may stand still for a while.
            deadline = time.monotonic() + self.every_s
            await anyio.sleep(self.every_s)
            lag_s = max(0.0, time.monotonic() - deadline)
            self._samples_s.append(lag_s)
            self.on_sample(lag_s)

    def stats(self) -> EventLoopLagStats | None:
        """Returns None before the first sample."""
        samples_s = sorted(self._samples_s)
        if not samples_s:
            return None

        def percentile_ms(share: float) -> float:
            return round(1000 * samples_s[math.ceil(share * len(samples_s)) - 1], 3)

        return EventLoopLagStats(
            p50=percentile_ms(0.5), p99=percentile_ms(0.99), max=percentile_ms(1.0)
        )
