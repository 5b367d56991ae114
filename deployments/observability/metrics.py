"""Every metric of this project, exported through Ray to Prometheus as `ray_NAME`.

The dashboard, the alert rules and docs/operating.md are compared with this table.
Tested in `tests/deployments/observability/test_metrics.py`.
"""

from typing import Any, Literal

from msgspec import Struct
from ray.util.metrics import Counter, Histogram

from deployments.observability.lasting_gauge import LastingGauge

SECONDS = (
    0.01,
    0.025,
    0.05,
    0.1,
    0.15,
    0.25,
    0.4,
    0.6,
    1.0,
    1.5,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
)
LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0, 3.0)
# Of real time: dense around 1, where a session begins to fall behind.
RATIO = (0.25, 0.5, 0.75, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)


class Spec(Struct, frozen=True, kw_only=True):
    """One metric."""

    kind: Literal["counter", "gauge", "histogram"]
    text: str
    tags: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()  # of a histogram's buckets

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Prometheus's endings of the name."""
        if self.kind == "histogram":
            return ("_bucket", "_sum", "_count")
        return ("_total",) if self.kind == "counter" else ("",)


METRICS = {
    # A transport replica's. `kind` is stream or clip.
    "lingbot_clients": Spec(
        kind="gauge",
        text="clients by state: connected, starting or waiting, then active or paused",
        tags=("kind", "state"),
    ),
    "lingbot_opens": Spec(kind="counter", text="worlds that were opened", tags=("kind",)),
    "lingbot_refusals": Spec(
        kind="counter",
        text="clients that ended without a world, by reason",
        tags=("kind", "reason"),
    ),
    "lingbot_resumes": Spec(
        kind="counter", text="sockets that came with a resume token", tags=("source",)
    ),
    "lingbot_closes": Spec(
        kind="counter", text="worlds that ended, by reason", tags=("kind", "reason")
    ),
    "lingbot_wait_seconds": Spec(
        kind="histogram",
        text="from a valid request to its world, or to giving up",
        tags=("kind",),
        bounds=SECONDS,
    ),
    "lingbot_first_chunk_seconds": Spec(
        kind="histogram",
        text="from a valid request to its first chunk, the wait included",
        bounds=SECONDS,
    ),
    "lingbot_chunk_period_ratio": Spec(
        kind="histogram",
        text="time from chunk to chunk, over the time that a chunk plays",
        bounds=RATIO,
    ),
    "lingbot_control_to_frame_seconds": Spec(
        kind="histogram",
        text="from the arrival of keys to the chunk in which they take effect",
        bounds=SECONDS,
    ),
    "lingbot_stalls": Spec(kind="counter", text="chunks that came over a frame's time too late"),
    "lingbot_stall_seconds": Spec(
        kind="counter", text="time for which clients had nothing left to show"
    ),
    "lingbot_dropped_frames": Spec(
        kind="counter", text="frames that slow clients in `latest` mode missed"
    ),
    "lingbot_sent_frames": Spec(kind="counter", text="frames that were sent", tags=("kind",)),
    "lingbot_sent_bytes": Spec(
        kind="counter", text="bytes of frames that were sent", tags=("kind",)
    ),
    "lingbot_event_loop_lag_seconds": Spec(
        kind="histogram", text="how late a timer of the event loop was", bounds=LAG_S
    ),
    # A rank's.
    "lingbot_camera_cache_hits": Spec(
        kind="counter", text="latent frames whose camera maps were cached", tags=("rank",)
    ),
    "lingbot_camera_cache_misses": Spec(
        kind="counter", text="latent frames whose camera maps had to be computed", tags=("rank",)
    ),
    "lingbot_camera_cache_evictions": Spec(
        kind="counter",
        text="cached camera maps that were removed to make room for others",
        tags=("rank",),
    ),
    "lingbot_camera_cache_conditioner_s": Spec(
        kind="counter", text="seconds spent on computing camera maps", tags=("rank",)
    ),
    "lingbot_camera_cache_stored_bytes": Spec(
        kind="gauge", text="bytes of the cached camera maps", tags=("rank",)
    ),
    # A replica group's, from its rank 0.
    "lingbot_group_sessions": Spec(
        kind="gauge", text="sessions of a replica group, by state", tags=("state",)
    ),
    "lingbot_group_waiting": Spec(kind="gauge", text="clients in a replica group's line"),
    "lingbot_group_session_bytes": Spec(
        kind="gauge",
        text="bytes of a rank that the sessions take: KV windows, decoder states, images",
    ),
    "lingbot_group_load": Spec(
        kind="gauge", text="share of real time that the active sessions take"
    ),
    "lingbot_lease_ends": Spec(
        kind="counter", text="sessions that ended, by reason", tags=("reason",)
    ),
    "lingbot_expired_leases": Spec(
        kind="counter", text="leases that no transport replica touched for too long"
    ),
}


def create(name: str) -> Any:
    """The metric of this name: a Counter or Histogram of Ray's, or a LastingGauge."""
    spec = METRICS[name]
    if spec.kind == "histogram":
        bounds = list(spec.bounds)
        return Histogram(name, description=spec.text, boundaries=bounds, tag_keys=spec.tags)
    kind = Counter if spec.kind == "counter" else LastingGauge
    return kind(name, description=spec.text, tag_keys=spec.tags)
