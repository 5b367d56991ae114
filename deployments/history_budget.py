"""The memory of a session's history in its transport replica."""

from deployments.config import ServiceConfig
from lingbot.runtime.history import History
from lingbot.runtime.snapshot import Origin, Snapshot


def budget_of(origin: Origin, config: ServiceConfig) -> int:
    """Bytes of latents with which a world of this size can be turned back by `history_s`.

    At most `history_bytes`.
    """
    chunk_bytes: int = origin.condition.nbytes // origin.condition.shape[1] * origin.chunk
    chunk_s = config.world.chunk_frames / config.world.fps
    num_chunks = int(config.history_s / chunk_s) + origin.sink_chunks + origin.kept_chunks
    return min(config.history_bytes, num_chunks * chunk_bytes)


def history_of(snapshot: Snapshot, config: ServiceConfig) -> History:
    """The history of a world that goes on from a snapshot."""
    return History.of(snapshot, budget_bytes=budget_of(snapshot.origin, config))
