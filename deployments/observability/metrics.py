"""What the ranks tell Ray's metrics, which Prometheus reads."""

from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Gauge

if TYPE_CHECKING:
    from lingbot.dit.camera_cache import CacheStats

COUNTS = {
    "hits": "latent frames whose camera maps were there",
    "misses": "latent frames whose camera maps had to be made",
    "evictions": "stored camera maps that made room for others",
    "conditioner_s": "seconds spent on making camera maps",
}


class CacheMetrics:
    """The camera cache of one rank, as ``lingbot_camera_cache_*``."""

    def __init__(self, *, rank: int) -> None:
        self._tags = {"rank": str(rank)}
        self._reported = dict.fromkeys(COUNTS, 0.0)
        self._counters = {
            name: Counter(f"lingbot_camera_cache_{name}", description=text, tag_keys=("rank",))
            for name, text in COUNTS.items()
        }
        self._stored = Gauge(
            "lingbot_camera_cache_stored_bytes",
            description="bytes of the stored camera maps",
            tag_keys=("rank",),
        )

    def report(self, stats: "CacheStats") -> None:
        """Bring the metrics up to date with what a cache has done since it was made."""
        for name, counter in self._counters.items():
            total = float(getattr(stats, name))
            if total > self._reported[name]:  # Ray refuses to add nothing
                counter.inc(total - self._reported[name], tags=self._tags)
                self._reported[name] = total
        self._stored.set(stats.stored_bytes, tags=self._tags)
