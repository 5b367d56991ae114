"""Serve's choice of a replica for a call: the one with the fewest ongoing calls.

Serve's own router compares two random replicas, by counts that may be ten seconds old. A lease
lasts for minutes, so each one is worth a question to the groups. Routers also learn which replicas
run, before anybody else in their process does, and note it in `RUNNING_REPLICAS`.
"""

import asyncio
import random
from collections.abc import Mapping
from typing import Any

from ray.exceptions import ActorDiedError, RayError
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from deployments import running_replicas  # the module: Serve copies what this one has imported
from deployments.calls import answer_of
from deployments.sessions.admission import Demand

MAX_ASKED = 32  # replicas for one call, chosen at random where there are more
ANSWER_TIMEOUT_S = 1.0
ON_ITS_WAY_S = 1.0  # the time after which a replica counts a call itself

DefaultRouter: Any = RequestRouterConfig().get_request_router_class()


class FewestOngoing:
    """Ranks replicas by their ongoing calls, and those that are on their way. No clock, no I/O."""

    def __init__(self) -> None:
        self._sent: list[tuple[str, float]] = []  # replica, time

    def rank(
        self,
        ongoing: Mapping[str, int],
        *,
        now: float,
        last_group: str | None = None,
        group: str | None = None,
    ) -> list[str]:
        """The ids of `ongoing`, the best first; a call is on its way to that one from now on.

        `group` comes first. `last_group` has let the client go, so that it comes last. Among
        equals, chance decides.
        """
        self._sent = [(one, sent) for one, sent in self._sent if now - sent < ON_ITS_WAY_S]
        counts = dict(ongoing)
        for one, _ in self._sent:
            if one in counts:
                counts[one] += 1
        ids = random.sample(list(counts), len(counts))
        ids.sort(key=lambda one: (one != group, one == last_group, counts[one]))
        if ids:
            self._sent.append((ids[0], now))
        return ids


class RunningReplicasMixin(RequestRouter):
    """Notes the replicas that Serve pushes to the router."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        deployment = self._deployment_id
        running = frozenset(str(replica.replica_id.unique_id) for replica in replicas)
        running_replicas.RUNNING_REPLICAS.update((deployment.app_name, deployment.name), running)


class SocketRouter(RunningReplicasMixin, DefaultRouter):  # type: ignore[misc]
    """Serve's own choice of a transport replica."""


class FewestOngoingRouter(RunningReplicasMixin, RequestRouter):
    """Asks the replicas for their ongoing calls, and sends each call to the one with the fewest."""

    def initialize_state(self, **kwargs: Any) -> None:
        """Serve calls this once."""
        self._ranking = FewestOngoing()

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """The replicas that answered, each as a rank of its own, the best first.

        Serve takes the first that accepts the call, and asks again if none does.
        """
        demand = demand_of(pending_request)
        group = None if demand is None else demand.group
        asked = {
            replica.replica_id.unique_id: replica
            for replica in choose_asked(candidate_replicas, group=group)
        }
        answers = await asyncio.gather(*(self._num_ongoing(one) for one in asked.values()))
        counts = {
            one: count for one, count in zip(asked, answers, strict=True) if count is not None
        }
        ranked = self._ranking.rank(
            counts,
            now=asyncio.get_running_loop().time(),
            last_group=None if demand is None else demand.last_group,
            group=group,
        )
        return [[asked[one]] for one in ranked]

    async def _num_ongoing(self, replica: RunningReplica) -> int | None:
        """None if the replica does not answer."""
        answer = answer_of(replica.get_queue_len(deadline_s=ANSWER_TIMEOUT_S))
        if not (await asyncio.wait([answer], timeout=ANSWER_TIMEOUT_S))[0]:
            return None
        try:
            return answer.result()
        except ActorDiedError:
            self.on_replica_actor_died(replica.replica_id)
        except RayError:
            pass  # it is asked again with the next call
        return None


def choose_asked(replicas: list[RunningReplica], *, group: str | None) -> list[RunningReplica]:
    """Some replicas by chance, and that of this `group` if it is there."""
    chosen = random.sample(replicas, min(len(replicas), MAX_ASKED))
    named = [one for one in replicas if one.replica_id.unique_id == group and one not in chosen]
    return named + chosen


def demand_of(request: PendingRequest | None) -> Demand | None:
    """The demand of a lease call; None for another call."""
    demand = request.args[0] if request is not None and request.args else None
    return demand if isinstance(demand, Demand) else None
