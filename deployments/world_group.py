"""A replica group: the ranks that together play worlds, and the leases on them."""

import asyncio
import logging
import os
import uuid
from asyncio import FIRST_COMPLETED
from collections.abc import AsyncIterator, Sequence
from typing import Any

import ray
from msgspec import Struct
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from deployments.config import ServiceConfig
from deployments.observability.logs import configure_logging
from deployments.world_rank import RankAssignment, WorldRank

WATCH_S = 1.0  # how often a rank is asked how long it has been busy

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
        configure_logging()
        self._ranks = start_ranks(config)
        limit_s = config.warm_up_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await begin(self._ranks)
        except TimeoutError as exc:
            raise TimeoutError(f"warm_up_timeout_s: the ranks took over {limit_s:g} s") from exc
        self._watchers = [
            asyncio.create_task(watch(rank, number, limit_s=config.step_timeout_s))
            for number, rank in enumerate(self._ranks)
        ]
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


def start_ranks(config: ServiceConfig) -> list[Any]:
    """One actor for each bundle of this replica's placement group, with all that the bundle has."""
    group = get_current_placement_group()
    assert group is not None, "WorldGroup needs placement_group_bundles"
    bundles = group.bundle_specs
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


async def begin(ranks: Sequence[Any]) -> None:
    """Have the ranks meet, load and warm up. Raises what the first one raises that cannot."""
    host, port = ray.util.get_node_ip_address(), 0
    if len(ranks) > 1:
        port = await ranks[0].listen.remote(host)
    places = [RankAssignment(number, len(ranks), host, port) for number in range(len(ranks))]
    await asyncio.gather(
        *(rank.start.remote(place) for rank, place in zip(ranks, places, strict=True))
    )
    playing = asyncio.gather(*(rank.play.remote() for rank in ranks))
    ends = [asyncio.ensure_future(rank.last.remote()) for rank in ranks]
    for first in (await asyncio.wait([playing, *ends], return_when=FIRST_COMPLETED))[0]:
        first.result()


async def watch(rank: Any, number: int, *, limit_s: float) -> None:
    """A group without one of its ranks is of no use: leave at once, and Serve starts another.

    Nor is one with a rank that hangs, in a step or altogether.
    """
    end = asyncio.ensure_future(rank.last.remote())
    try:
        while not (await asyncio.wait([end], timeout=WATCH_S))[0]:
            async with asyncio.timeout(limit_s):
                busy_s: float = await rank.busy_s.remote()
            if busy_s > limit_s:
                raise TimeoutError
        await end
    except TimeoutError:
        why = f"did not answer or finish a step in {limit_s:g} s"
    except Exception as exc:  # whatever it is, this rank is not watched any more
        why = f"ended: {exc}"
    logger.error("rank %d %s; its group ends, to be started again", number, why)
    os._exit(1)
