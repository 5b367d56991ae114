"""How many replica groups Ray Serve's default autoscaling policy asks for, under virtual time."""

import math
from collections import deque

ROUNDING_S = 1e-6


class Autoscaler:
    """The mean of the ongoing leases over a look-back window, divided by the target of a group.

    As `autoscaling_policy.py` of Ray Serve 2.60, with both scaling factors at 1. Every `now` is in
    seconds of one clock.
    """

    def __init__(
        self,
        *,
        target_ongoing: float,
        min_groups: int,
        max_groups: int,
        upscale_delay_s: float,
        downscale_delay_s: float,
        look_back_s: float,
    ) -> None:
        self._target_ongoing = target_ongoing
        self._min_groups, self._max_groups = min_groups, max_groups
        self._upscale_delay_s, self._downscale_delay_s = upscale_delay_s, downscale_delay_s
        self._look_back_s = look_back_s
        self._ongoing = 0
        self._noted = self._area = 0.0  # ongoing leases times seconds, until `_noted`
        self._samples = deque([(0.0, 0.0)])  # time, area
        self._wish: tuple[bool, float] | None = None  # more groups (or fewer), since when

    def note(self, ongoing: int, now: float) -> None:
        """Note the number of leases, waiting or granted, from now on."""
        self._area += self._ongoing * (now - self._noted)
        self._ongoing, self._noted = ongoing, now

    def decide(self, *, num_up: int, num_wanted: int, now: float) -> int:
        """The new number of groups. `num_wanted` is the current one, `num_up` those that serve."""
        mean = self._mean(now)
        if num_up == 0 and mean > 0:  # a cold start waits for nothing
            return self._bound(max(1, num_wanted))
        desired = self._bound(math.ceil(mean / self._target_ongoing) if num_up else num_wanted)
        if desired == num_wanted:
            self._wish = None
            return desired
        more = desired > num_wanted
        if self._wish is None or self._wish[0] != more:
            self._wish = more, now
        delay_s = self._upscale_delay_s if more else self._downscale_delay_s
        if now - self._wish[1] + ROUNDING_S < delay_s:
            return num_wanted
        self._wish = None
        # Serve takes the last group away in a step of its own
        return desired if more or num_wanted == 1 else max(1, desired)

    def _mean(self, now: float) -> float:
        """The mean of the ongoing leases over the look-back window."""
        self.note(self._ongoing, now)
        samples = self._samples
        if now > samples[-1][0]:
            samples.append((now, self._area))
        while len(samples) > 2 and samples[1][0] <= now - self._look_back_s:
            samples.popleft()
        start, area = samples[0]
        return (self._area - area) / (now - start) if now > start else float(self._ongoing)

    def _bound(self, num_groups: int) -> int:
        return min(self._max_groups, max(self._min_groups, num_groups))
