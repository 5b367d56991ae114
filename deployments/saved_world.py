"""Snapshots of clients: checked, and as the transport room knows them.

Tested in `tests/deployments/test_world.py`.
"""

import logging

import numpy as np

from deployments.config import ServiceConfig
from deployments.refusal import refusal_of
from deployments.sessions.admission import Demand
from lingbot.config import LATENT_CHANNELS
from lingbot.errors import LingbotError
from lingbot.runtime.snapshot import Origin, Snapshot, decode_snapshot
from lingbot.runtime.snapshot_check import check_snapshot, longest_condition
from transport.wire.errors import Refused
from transport.wire.limits import ClientLimits
from transport.wire.world import SavedWorld, WorldSpec

INIT_BYTES = 1024  # of an `init` beside its snapshot; a long prompt takes more

logger = logging.getLogger(__name__)


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


def check_openable(data: bytes, limits: ClientLimits) -> None:
    """Raise Refused for a snapshot that no `init` could bring back."""
    most = limits.max_init_bytes - INIT_BYTES
    if len(data) > most:
        raise Refused(
            f"the saved world has {len(data)} bytes, and could not be opened again: this server's "
            f"`max_init_bytes` leaves {most} for it"
        )


def warn_of_large_worlds(config: ServiceConfig, limits: ClientLimits) -> None:
    """Log a warning if worlds of the largest size cannot be saved; see `check_openable`."""
    largest, size = largest_snapshot_bytes(config), config.world.largest_size
    if largest > limits.max_init_bytes - INIT_BYTES:
        logger.warning(
            "limits.max_init_bytes: %d is too small for saved worlds of %s, which have up to %d "
            "bytes: `save` will be refused",
            limits.max_init_bytes,
            size,
            largest,
        )


def largest_snapshot_bytes(config: ServiceConfig) -> int:
    """Bytes of latents in a snapshot of a world of the largest size and the default window."""
    world = config.world
    size = world.largest_size
    is_half = config.dtype == "bfloat16" or (config.dtype == "auto" and config.device == "cuda")
    frames = longest_condition(world)
    assert frames is not None  # a served world has a preset
    dtype = np.uint16 if is_half else np.float32  # auto on a CPU: it may be either
    origin = Origin(
        preset=world.name,
        fingerprint="",
        width=size.width,
        height=size.height,
        seed=0,
        num_steps=None,
        window=world.window,
        sink=world.sink,
        chunk=world.chunk,
        condition=np.empty((LATENT_CHANNELS, frames, *size.latent), dtype),
    )
    kept = (origin.sink_chunks + origin.kept_chunks) * origin.chunk
    return int(origin.condition.nbytes // frames * (frames + kept))


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


def demand_of(world: WorldSpec | SavedWorld, *, realtime: bool, resumable: bool) -> Demand:
    """The demand of a session that opens a new world, or goes on with a saved one."""
    return Demand(
        width=world.width,
        height=world.height,
        window=world.window,
        num_steps=world.num_steps,
        realtime=realtime,
        resumable=resumable,
    )
