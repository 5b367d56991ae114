"""Metrics of the ranks, exported through Ray to Prometheus.

Tested in `tests/deployments/test_ranks.py`.
"""

from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Gauge

if TYPE_CHECKING:
    from lingbot.dit.camera_cache import CacheStats

COUNTERS = {
    "hits": "latent frames whose camera maps were cached",
    "misses": "latent frames whose camera maps had to be computed",
    "evictions": "cached camera maps that were removed to make room for others",
    "conditioner_s": "seconds spent on computing camera maps",
}


class CacheMetrics:
    """The camera cache of one rank, as `lingbot_camera_cache_*`."""

    def __init__(self, *, rank: int) -> None:
        self._tags = {"rank": str(rank)}
        self._reported = dict.fromkeys(COUNTERS, 0.0)
        self._counters = {
            name: Counter(f"lingbot_camera_cache_{name}", description=text, tag_keys=("rank",))
            for name, text in COUNTERS.items()
        }
        self._stored = Gauge(
            "lingbot_camera_cache_stored_bytes",
            description="bytes of the cached camera maps",
            tag_keys=("rank",),
        )

    def report(self, stats: "CacheStats") -> None:
        """Raise the metrics to `stats`, the totals of a cache since its creation."""
        for name, counter in self._counters.items():
            total = float(getattr(stats, name))
            if total > self._reported[name]:  # Ray rejects an increment of zero
                counter.inc(total - self._reported[name], tags=self._tags)
                self._reported[name] = total
        self._stored.set(stats.stored_bytes, tags=self._tags)
