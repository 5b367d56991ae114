"""The list of sessions, from fake groups, and from named actors of a real cluster."""

import asyncio
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError

from deployments.observability.session_reports import SessionReport
from deployments.session_list import SessionCollector

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
    began = time.monotonic()
    found = collect({"g1": FakeRank("a", answer=answer), "g2": FakeRank("b")})
    assert time.monotonic() - began < 2
    assert (found.complete, found.missing_groups) == (False, ["g1"])
    assert [one.id for one in found.sessions] == ["b"]


NAMED_ACTORS = """
import time, ray
from deployments.session_list import NAMESPACE, find_ranks, rank_name

ray.init(num_cpus=0, include_dashboard=False, log_to_driver=False)

@ray.remote(num_cpus=0)
class Rank:
    pass

names = [rank_name("app", "g1"), rank_name("app", "g2"), rank_name("apple", "g3")]
held = [Rank.options(name=name, namespace=NAMESPACE).remote() for name in names]
held.append(Rank.options(name=rank_name("app", "g4"), namespace="other").remote())
ray.get([one.__ray_ready__.remote() for one in held])
assert find_ranks("app").keys() == {"g1", "g2"}
ray.kill(held[0])
deadline = time.monotonic() + 20
while find_ranks("app").keys() != {"g2"}:
    assert time.monotonic() < deadline
    time.sleep(0.1)
print("found")
"""


@pytest.mark.cluster
def test_ranks_are_found_by_their_names():
    """In a process of its own, because Ray leaves open handles in the one that starts it."""
    done = subprocess.run(
        [sys.executable, "-c", NAMED_ACTORS],
        env=os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "100"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip().endswith("found"), done.stderr[-3000:]
