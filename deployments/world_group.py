"""A replica group: the ranks that together play worlds, and the leases on them."""

import asyncio
import logging
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

import ray
from msgspec import Struct
from ray.exceptions import RayActorError
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from deployments.config import ServiceConfig
from deployments.logs import show_logs
from deployments.world_rank import WorldRank

logger = logging.getLogger(__name__)


class Lease(Struct, frozen=True):
    """What a leaseholder gets: the actor to call for the steps of its session."""

    session_id: str
    rank: Any  # the actor handle of rank 0


class WorldGroup:
    """One Serve replica. It holds no GPU and imports no torch: it starts, lends and watches ranks.

    Built by Ray Serve; a plain class, ``build`` makes it a deployment. The bundles of its placement
    group are its ranks.
    """

    async def __init__(self, config: ServiceConfig) -> None:  # type: ignore[misc]  # Serve awaits it
        show_logs()
        self._config = config
        self._ranks = start_ranks(config)
        await asyncio.gather(*(rank.start.remote() for rank in self._ranks))
        self._watchers = [asyncio.create_task(watch(rank)) for rank in self._ranks]
        logger.info("%d ranks are warm", len(self._ranks))

    async def lease(self) -> AsyncIterator[Lease]:
        """One streaming call for the life of a session; its only item names the rank-0 actor.

        Frames and controls never come through here. The call counts for Serve's caps, autoscaling
        and draining; it ends when the session does, and the session ends with it, whichever side
        went first.
        """
        front = self._ranks[0]
        session_id = uuid.uuid4().hex
        await front.reserve.remote(session_id)
        try:
            yield Lease(session_id, front)
            await front.wait_for_end.remote(session_id)
        finally:
            front.end.remote(session_id, "its lease is over")

    async def check_health(self) -> None:
        """Called by Serve. A step that hangs would make every later session hang: start again."""
        limit = self._config.step_timeout_s
        for rank in self._ranks:
            busy_s: float = await rank.busy_s.remote()
            if busy_s > limit:
                raise RuntimeError(f"the engine has been at one call for {busy_s:.0f} s")


def start_ranks(config: ServiceConfig) -> list[Any]:
    """One actor for each bundle of this replica's placement group, with all that the bundle has."""
    group = get_current_placement_group()
    assert group is not None, "WorldGroup needs placement_group_bundles"
    bundles = group.bundle_specs
    if len(bundles) != 1:
        raise ValueError(f"placement_group_bundles: expected 1 bundle (a rank), not {len(bundles)}")
    return [
        ray.remote(WorldRank)
        .options(
            num_cpus=bundle.get("CPU", 0),
            num_gpus=bundle.get("GPU", 0),
            max_concurrency=1000,  # async calls that wait: each lease is one
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=group, placement_group_bundle_index=index
            ),
        )
        .remote(config)
        for index, bundle in enumerate(bundles)
    ]


async def watch(rank: Any) -> None:
    """A group without one of its ranks is of no use: leave at once, and Serve starts another."""
    try:
        await rank.last.remote()
    except RayActorError:
        logger.exception("a rank died, and its group with it")
        os._exit(1)
