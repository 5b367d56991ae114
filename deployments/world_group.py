"""A replica group: starts the ranks that run one copy of the model, watches and leases them."""

import asyncio
import logging
import os
import uuid
from asyncio import FIRST_COMPLETED
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import ray
from msgspec import Struct
from ray import serve
from ray.exceptions import RayError
from ray.util import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from deployments.calls import answer_of
from deployments.config import MAX_RANK_CALLS, ServiceConfig, parse_group_config
from deployments.observability.logs import configure_logging
from deployments.session_list import NAMESPACE, rank_name
from deployments.sessions.admission import Demand
from deployments.sessions.lease_reply import AskAgain, Ended, Full, Leased, NotHere, Waiting
from deployments.world_rank import RankAssignment, WorldRank
from transport.wire.world import WorldMemory

logger = logging.getLogger(__name__)


class Lease(Struct, frozen=True, kw_only=True):
    """A session of the group, and the actor that steps it."""

    session_id: str
    rank: Any  # the actor handle of rank 0
    group_id: str = ""
    epoch: int = 1  # the number of the session's leases; calls of an older one are refused
    secret: str = ""  # with the id, it lets a later demand attach to the session
    attached: bool = False  # to a session that had another lease before
    age_s: float = 0.0  # since the session was reserved first, in any group


class WorldGroup:
    """One Serve replica. It holds no GPU and imports no torch.

    Its placement group has one bundle for each rank. This is a plain class; `build` makes it a
    deployment.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: ServiceConfig, *, watch_period_s: float = 1.0
    ) -> None:
        configure_logging(config.log_format)
        self._ranks = create_ranks(config)
        self._group_id = serve.get_replica_context().replica_id.unique_id
        timeout_s = config.warm_up_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await start_group(
                    self._ranks,
                    host=ray.util.get_node_ip_address(),
                    group_id=self._group_id,
                )
        except TimeoutError as exc:
            raise TimeoutError(f"warm_up_timeout_s: the ranks took over {timeout_s:g} s") from exc
        self._watchers = [
            asyncio.create_task(
                watch(rank, number, timeout_s=config.step_timeout_s, period_s=watch_period_s)
            )
            for number, rank in enumerate(self._ranks)
        ]
        logger.info("%d ranks are warm", len(self._ranks))
        self._has_sessions = True

    def __del__(self) -> Awaitable[None] | None:
        """Serve calls and awaits this when the replica has drained, before it kills the ranks.

        It waits for the detached sessions, which no call counts: until each has been handed over or
        its grace is over, but no longer than `graceful_shutdown_timeout_s`.
        """
        if not getattr(self, "_has_sessions", False):
            return None
        self._has_sessions = False  # Python calls this once more
        return self._wait_for_detached()

    async def _wait_for_detached(self) -> None:
        with suppress(RayError):  # a rank has died
            await self._ranks[0].wait_empty.remote()

    async def memory(self) -> WorldMemory | None:
        """The plan of rank 0's memory."""
        memory: WorldMemory | None = await self._ranks[0].memory.remote()
        return memory

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve calls this with `user_config`, at the start and whenever it changes.

        The limits hold at once. No session ends by them.
        """
        limits = parse_group_config(user_config).group
        self._ranks[0].set_limits.remote(limits)

    async def lease(
        self, demand: Demand
    ) -> AsyncIterator[Waiting | AskAgain | Full | NotHere | Lease | Ended]:
        """One streaming call for a client's wait and its hold on a session.

        Yields the client's place in the group's line, then the lease, or a reason why there is
        none. The lease names the rank-0 actor: frames and controls bypass this replica. The call
        counts for Serve's caps, autoscaling and draining. When the session ends or is taken over,
        the call ends with the reason. When the call ends first, a resumable session is detached,
        and any other one ends.
        """
        leader, call_id = self._ranks[0], uuid.uuid4().hex
        replies = leader.lease.remote(call_id, demand)
        first = answer_of(anext(replies))
        try:
            reply = await asyncio.shield(first)
            while True:
                answer: Waiting | AskAgain | Full | NotHere | Leased | Ended = await reply
                yield self._sign(answer) if isinstance(answer, Leased) else answer
                reply = await anext(replies)
        except StopAsyncIteration:
            pass
        finally:
            # An async actor's calls may overtake each other: 121 of 3,000 did. A `leave` that comes
            # before its lease would end nothing.
            first.add_done_callback(lambda _: leader.leave.remote(call_id))

    def _sign(self, lease: Leased) -> Lease:
        return Lease(
            session_id=lease.session_id,
            rank=self._ranks[0],
            group_id=self._group_id,
            epoch=lease.epoch,
            secret=lease.secret,
            attached=lease.attached,
            age_s=lease.age_s,
        )


def create_ranks(config: ServiceConfig) -> list[Any]:
    """One actor for each bundle of this replica's placement group, with the bundle's resources.

    Rank 0 has a name, by which the transports find it.
    """
    group = get_current_placement_group()
    assert group is not None, "WorldGroup needs placement_group_bundles"
    bundles, replica = group.bundle_specs, serve.get_replica_context()
    name = rank_name(replica.app_name, replica.replica_id.unique_id)
    num_cpus = sum(bundle.get("CPU", 0) for bundle in bundles) or None
    return [
        ray.remote(WorldRank)
        .options(
            name=None if index else name,
            namespace=NAMESPACE,
            num_cpus=bundle.get("CPU", 0),
            num_gpus=bundle.get("GPU", 0),
            max_concurrency=MAX_RANK_CALLS,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=group, placement_group_bundle_index=index
            ),
        )
        .remote(config, num_cpus=num_cpus)
        for index, bundle in enumerate(bundles)
    ]


async def start_group(ranks: Sequence[Any], *, host: str, group_id: str = "") -> None:
    """Connect the ranks, load their weights and warm them up.

    The rendezvous is on rank 0, on this node, whose address is `host`. `group_id` is the group's
    name for its clients. Raises the error of the first rank that fails.
    """
    port = await ranks[0].open_rendezvous.remote(host) if len(ranks) > 1 else 0
    assignments = [
        RankAssignment(rank=number, num_ranks=len(ranks), host=host, port=port, group_id=group_id)
        for number in range(len(ranks))
    ]
    await asyncio.gather(
        *(rank.start.remote(each) for rank, each in zip(ranks, assignments, strict=True))
    )
    warm = answer_of(asyncio.gather(*(rank.start_loop.remote() for rank in ranks)))
    failures = [answer_of(rank.wait_failed.remote()) for rank in ranks]
    done, _ = await asyncio.wait([warm, *failures], return_when=FIRST_COMPLETED)
    for first in done:
        first.result()


async def watch(
    rank: Any,
    number: int,
    *,
    timeout_s: float,
    period_s: float,
    exit_process: Callable[[int], object] = os._exit,
) -> None:
    """Exit this replica when a rank dies, hangs in a step or stops answering.

    Serve then starts a new group. `timeout_s` limits a step and an answer; `period_s` is the time
    between two questions to the rank.
    """
    failure = answer_of(rank.wait_failed.remote())
    try:
        while not (await asyncio.wait([failure], timeout=period_s))[0]:
            async with asyncio.timeout(timeout_s):
                busy_s: float = await rank.busy_s.remote()
            if busy_s > timeout_s:
                raise TimeoutError
        await failure
    except TimeoutError:
        reason = f"did not answer or finish a step in {timeout_s:g} s"
    except Exception as exc:  # any error here ends the watch over this rank
        reason = f"ended: {exc}"
    logger.error("rank %d %s; exiting, so that Serve starts a new group", number, reason)
    exit_process(1)
