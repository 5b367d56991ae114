"""The list of sessions, from fake groups."""

import asyncio
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError

from deployments import session_list
from deployments.observability.session_reports import SessionReport
from deployments.session_list import NAMESPACE, SessionCollector, find_ranks, rank_name

REPORT = SessionReport(
    transport="t1",
    kind="stream",
    token="alice",
    trace_id=None,
    sent_chunks=2,
    sent_frames=21,
    sent_bytes=99,
)


def status(session_id):
    return SimpleNamespace(
        session_id=session_id,
        state="active",
        width=32,
        height=16,
        seconds=1.26,
        num_chunks=3,
        num_bytes=1000,
    )


class FakeRank:
    def __init__(self, *session_ids, reports=None, answer=None):
        self._ids, self._reports, self._answer = session_ids, reports or {}, answer
        self.sessions, self.reports = (
            SimpleNamespace(remote=call) for call in (self._sessions, self._get_reports)
        )

    async def _sessions(self):
        if self._answer is not None:
            await self._answer()
        return [status(session_id) for session_id in self._ids]

    async def _get_reports(self):
        return self._reports


async def hang():
    await asyncio.Event().wait()


async def die():
    raise ActorDiedError


def collect(ranks):
    collector = SessionCollector("app", answer_timeout_s=0.1, find=lambda application: ranks)
    return asyncio.run(collector.collect())


def test_sessions_of_all_groups_with_what_the_transports_reported():
    found = collect({"g1": FakeRank("a", "b", reports={"b": REPORT}), "g2": FakeRank("c")})
    assert (found.complete, found.missing_groups) == (True, [])
    assert [(one.group, one.id) for one in found.sessions] == [
        ("g1", "a"),
        ("g1", "b"),
        ("g2", "c"),
    ]
    first, second, _ = found.sessions
    assert (first.state, first.width, first.height, first.age_s) == ("active", 32, 16, 1.3)
    assert (first.chunks, first.memory_bytes, first.transport) == (3, 1000, None)
    assert (second.transport, second.token, second.sent_bytes) == ("t1", "alice", 99)


def test_no_groups_no_sessions():
    assert collect({}).complete and collect({}).sessions == []


@pytest.mark.parametrize("answer", [hang, die])
def test_a_group_that_does_not_answer_is_missing_and_delays_nobody(answer):
    found = collect({"g1": FakeRank("a", answer=answer), "g2": FakeRank("b")})
    assert (found.complete, found.missing_groups) == (False, ["g1"])
    assert [one.id for one in found.sessions] == ["b"]


def test_ranks_are_found_by_their_names(monkeypatch):
    """`test_operations.py` finds one in a real cluster."""
    names = [(rank_name("app", "g1"), NAMESPACE), (rank_name("app", "g2"), NAMESPACE)]
    others = [(rank_name("apple", "g3"), NAMESPACE), (rank_name("app", "g4"), "serve")]
    died = (rank_name("app", "g5"), NAMESPACE)

    def get_actor(name, namespace):
        if (name, namespace) == died:
            raise ValueError("died since")
        return f"handle of {name}"

    actors = [{"name": name, "namespace": space} for name, space in (*names, *others, died)]
    monkeypatch.setattr(session_list, "list_named_actors", lambda all_namespaces: actors)
    monkeypatch.setattr(session_list.ray, "get_actor", get_actor)
    assert find_ranks("app") == {"g1": "handle of app/g1", "g2": "handle of app/g2"}


def test_an_answer_that_comes_too_late_may_still_come():
    """Ray sets it, and fails where it was cancelled."""

    async def scenario():
        late = asyncio.get_running_loop().create_future()
        rank = SimpleNamespace(
            sessions=SimpleNamespace(remote=lambda: late), reports=FakeRank().reports
        )
        collector = SessionCollector("app", answer_timeout_s=0.01, find=lambda name: {"g1": rank})
        assert (await collector.collect()).missing_groups == ["g1"]
        late.set_result([])

    asyncio.run(scenario())
