"""Metrics of the ranks, and of the replica group that they are.

Tested in `tests/deployments/observability/test_rank_metrics.py`, and on a group of two ranks in
`tests/deployments/test_ranks.py`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from deployments.observability.metrics import create
from deployments.sessions.registry import EndReason

if TYPE_CHECKING:
    from lingbot.dit.camera_cache import CacheStats

CACHE_COUNTERS = ("hits", "misses", "evictions", "conditioner_s")


class CacheMetrics:
    """The camera cache of one rank, as `lingbot_camera_cache_*`."""

    def __init__(self, *, rank: int) -> None:
        self._tags = {"rank": str(rank)}
        self._reported = dict.fromkeys(CACHE_COUNTERS, 0.0)
        self._counters = {name: create(f"lingbot_camera_cache_{name}") for name in CACHE_COUNTERS}
        self._stored = create("lingbot_camera_cache_stored_bytes")

    def report(self, stats: "CacheStats") -> None:
        """Raise the metrics to `stats`, the totals of a cache since its creation."""
        for name, counter in self._counters.items():
            total = float(getattr(stats, name))
            if total > self._reported[name]:  # Ray rejects an increment of zero
                counter.inc(total - self._reported[name], tags=self._tags)
                self._reported[name] = total
        self._stored.set(stats.stored_bytes, tags=self._tags)


class GroupMetrics:
    """The sessions and the line of one replica group."""

    def __init__(self) -> None:
        self._sessions = create("lingbot_group_sessions")
        self._waiting = create("lingbot_group_waiting")
        self._bytes = create("lingbot_group_session_bytes")
        self._load = create("lingbot_group_load")
        self._ends = create("lingbot_lease_ends")
        self._expired = create("lingbot_expired_leases")
        self._reported_expired = 0
        self._states: set[str] = set()  # all that were reported: one without sessions is 0
        self._reported: dict[str, int] = {}

    def report(
        self,
        *,
        states: Mapping[str, int],
        ends: Mapping[EndReason, int],
        num_expired: int,
        num_waiting: int,
        num_bytes: int,
        load: float,
    ) -> None:
        """`states` counts the sessions by state now, and `ends` those that ended, by reason.

        `num_expired` counts all leases that were not touched for too long.
        """
        self._states |= states.keys()
        for state in self._states:
            self._sessions.set(states.get(state, 0), tags={"state": state})
        for reason, total in ends.items():
            if more := total - self._reported.get(reason, 0):
                self._ends.inc(more, tags={"reason": reason})
                self._reported[reason] = total
        if more := num_expired - self._reported_expired:
            self._expired.inc(more)
            self._reported_expired = num_expired
        self._waiting.set(num_waiting)
        self._bytes.set(num_bytes)
        self._load.set(load)
