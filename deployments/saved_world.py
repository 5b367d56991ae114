"""Snapshots of clients: checked, and as the transport room knows them.

Tested in `tests/deployments/test_world.py`.
"""

from deployments.config import ServiceConfig
from deployments.refusal import refusal_of
from deployments.sessions.admission import Demand
from lingbot.errors import LingbotError
from lingbot.runtime.snapshot import Snapshot, decode_snapshot
from lingbot.runtime.snapshot_check import check_snapshot
from transport.wire.errors import Refused
from transport.wire.limits import ClientLimits
from transport.wire.world import SavedWorld


def read_snapshot(
    data: bytes, config: ServiceConfig, *, limits: ClientLimits | None = None
) -> Snapshot:
    """Untrusted bytes, which may take a second of a CPU. Raises Refused with the wrong field.

    `limits` are those of the client that sent them, and None for bytes of the server's own store.
    The fingerprint of the weights is not compared: the rank that restores the world does.
    """
    max_bytes = len(data) if limits is None else limits.max_init_bytes
    try:
        snapshot = decode_snapshot(data, max_bytes=max_bytes)
        check_snapshot(snapshot, config.world)
    except LingbotError as exc:
        refusal = refusal_of(exc)
        raise Refused(refusal.text, field=refusal.field) from exc
    return snapshot


def describe(snapshot: Snapshot) -> SavedWorld:
    """A snapshot as the transport room knows it."""
    origin = snapshot.origin
    return SavedWorld(
        width=origin.width,
        height=origin.height,
        seed=origin.seed,
        prompt=snapshot.prompt,
        chunk_index=snapshot.next_chunk,
        num_steps=origin.num_steps,
        window=origin.window,
        sink=origin.sink,
        world=snapshot,
    )


def demand_of(saved: SavedWorld, *, realtime: bool, resumable: bool) -> Demand:
    """The demand of a session that goes on with a saved world."""
    return Demand(
        width=saved.width,
        height=saved.height,
        window=saved.window,
        realtime=realtime,
        resumable=resumable,
    )
