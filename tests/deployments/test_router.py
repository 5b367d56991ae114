"""Which replica a call goes to."""

import asyncio
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import RequestRouter

from deployments.router import FewestOngoing, FewestOngoingRouter, SocketRouter
from deployments.running_replicas import RUNNING_REPLICAS
from deployments.sessions.admission import Demand


def test_the_replica_with_the_fewest_calls_comes_first():
    for _ in range(20):
        assert FewestOngoing().rank({"a": 2, "b": 0, "c": 1}, now=0) == ["b", "c", "a"]


def test_calls_on_their_way_count_until_the_replica_counts_them():
    ranking = FewestOngoing()
    chosen = [ranking.rank({"a": 0, "b": 0}, now=0.1 * number)[0] for number in range(4)]
    assert sorted(chosen) == ["a", "a", "b", "b"]
    assert ranking.rank({"a": 2, "b": 3}, now=2.0)[0] == "a"


def test_chance_decides_among_equals():
    firsts = {FewestOngoing().rank({"a": 1, "b": 1}, now=0)[0] for _ in range(100)}
    assert firsts == {"a", "b"}


def test_the_group_that_has_let_a_client_go_comes_last():
    for _ in range(20):
        ranking = FewestOngoing()
        assert ranking.rank({"a": 0, "b": 7}, now=0, last_group="a") == ["b", "a"]
        assert ranking.rank({"a": 0}, now=0, last_group="a") == ["a"]
    assert FewestOngoing().rank({}, now=0) == []


def test_the_group_that_is_asked_for_comes_first():
    for _ in range(20):
        assert FewestOngoing().rank({"a": 0, "b": 7}, now=0, group="b") == ["b", "a"]
        assert FewestOngoing().rank({"a": 0}, now=0, group="gone") == ["a"]


class Replica:
    def __init__(self, name, answer):
        self.replica_id, self.answer = SimpleNamespace(unique_id=name), answer

    async def get_queue_len(self, *, deadline_s):
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is None:
            await asyncio.Event().wait()
        return self.answer


class Router(FewestOngoingRouter):
    """Serve's part of it needs a cluster."""

    def __init__(self):
        self.dead = []
        self.initialize_state()

    def on_replica_actor_died(self, replica_id):
        self.dead.append(replica_id.unique_id)


def choose(replicas, *args):
    async def run():
        ranks = await router.choose_replicas(replicas, SimpleNamespace(args=args))
        return [replica.replica_id.unique_id for (replica,) in ranks]

    router = Router()
    return asyncio.run(run()), router


def test_replicas_that_are_dead_or_do_not_answer_are_left_out(monkeypatch):
    monkeypatch.setattr("deployments.router.ANSWER_TIMEOUT_S", 0.05)
    replicas = [
        Replica("busy", 3),
        Replica("dead", ActorDiedError()),
        Replica("gone", ActorUnavailableError("no", None)),
        Replica("hangs", None),
        Replica("idle", 0),
    ]
    names, router = choose(replicas)
    assert names == ["idle", "busy"] and router.dead == ["dead"]


@pytest.mark.parametrize("args", [(), ("other",)])
def test_only_the_demand_of_a_lease_names_a_group(args):
    assert choose([Replica("a", 0), Replica("b", 1)], *args)[0] == ["a", "b"]


def test_a_client_that_was_let_go_goes_to_another_group():
    demand = Demand(width=16, height=16, last_group="a")
    assert choose([Replica("a", 0), Replica("b", 1)], demand)[0] == ["b", "a"]


def test_a_client_that_comes_back_goes_to_its_group_among_any_number():
    demand = Demand(width=16, height=16, group="99")
    for _ in range(5):
        names, _ = choose([Replica(f"{number}", number) for number in range(100)], demand)
        assert names[0] == "99" and len(names) in (32, 33)


def test_routers_note_the_replicas_that_run(monkeypatch):
    """Serve calls `update_replicas` with each push."""
    noted = []
    noting = SimpleNamespace(update=add(noted))
    monkeypatch.setattr("deployments.running_replicas.RUNNING_REPLICAS", noting)
    monkeypatch.setattr(RequestRouter, "update_replicas", lambda self, replicas: None)
    for kind in (FewestOngoingRouter, SocketRouter):
        router = kind.__new__(kind)
        router._deployment_id = SimpleNamespace(app_name="lingbot", name=kind.__name__)
        router.update_replicas([Replica("a", 0), Replica("b", 0)])
        router.update_replicas([])
        assert noted[-2:] == [
            (("lingbot", kind.__name__), frozenset("ab")),
            (("lingbot", kind.__name__), frozenset()),
        ]


def test_a_router_notes_into_the_one_list_of_its_process():
    """Serve sends the routers' classes, with all that their module has imported, by value."""
    for kind in ("FewestOngoingRouter", "SocketRouter"):
        config = RequestRouterConfig(request_router_class=f"deployments.router.{kind}")
        copied = config.get_request_router_class()
        module = copied.update_replicas.__globals__["running_replicas"]
        assert module.RUNNING_REPLICAS is RUNNING_REPLICAS


def add(noted):
    return lambda *args: noted.append(args)


def test_of_very_many_replicas_some_are_asked():
    names, _ = choose([Replica(f"{number}", number) for number in range(100)])
    assert len(names) == 32


def test_an_answer_that_comes_too_late_may_still_come(monkeypatch):
    """Ray sets it, and fails where it was cancelled."""
    monkeypatch.setattr("deployments.router.ANSWER_TIMEOUT_S", 0.01)

    async def scenario():
        late = asyncio.get_running_loop().create_future()

        async def get_queue_len(deadline_s):
            return await late

        replica = Replica("late", None)
        replica.get_queue_len = get_queue_len
        assert await Router()._num_ongoing(replica) is None
        late.set_result(3)

    asyncio.run(scenario())
