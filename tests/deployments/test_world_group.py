"""What the group does about its ranks, told by ranks of ten lines."""

import asyncio

import pytest

from deployments import world_group
from deployments.world_group import begin, watch


class Ended(BaseException):
    """Stands for the end of the process."""


class Remote:
    def __init__(self, call):
        self.remote = call


class FakeRank:
    """It lives, answers and warms up; a test takes one of these from it."""

    def __init__(self, *, busy_s=0.0, reason=None):
        self.busy, self.reason, self.placed = busy_s, reason, None
        for name in ("listen", "start", "play", "last", "busy_s"):
            setattr(self, name, Remote(getattr(self, f"do_{name}")))

    async def do_listen(self, host):
        return 1234

    async def do_start(self, place):
        self.placed = place

    async def do_play(self):
        if self.reason:
            await asyncio.Event().wait()

    async def do_last(self):
        if self.reason:
            raise self.reason
        await asyncio.Event().wait()

    async def do_busy_s(self):
        if self.busy is None:
            await asyncio.Event().wait()
        return self.busy


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    def end(status):
        raise Ended

    monkeypatch.setattr(world_group.os, "_exit", end)
    monkeypatch.setattr(world_group, "WATCH_S", 0.01)


async def watched(rank):
    await asyncio.wait_for(watch(rank, 0, limit_s=0.05), 0.5)


@pytest.mark.parametrize(
    "rank, reason",
    [
        (lambda: FakeRank(busy_s=0.06), "did not answer or finish a step in 0.05 s"),
        (lambda: FakeRank(busy_s=None), "did not answer or finish a step in 0.05 s"),
        (lambda: FakeRank(reason=RuntimeError("out of memory")), "ended: out of memory"),
    ],
    ids=["a step hangs", "no answer", "dead"],
)
def test_a_rank_of_no_use_ends_its_group(rank, reason, caplog):
    with pytest.raises(Ended):
        asyncio.run(watched(rank()))
    assert reason in caplog.text


def test_a_rank_at_work_is_left_alone():
    with pytest.raises(TimeoutError):
        asyncio.run(watched(FakeRank(busy_s=0.04)))


def test_ranks_learn_their_places(monkeypatch):
    monkeypatch.setattr(world_group.ray.util, "get_node_ip_address", lambda: "10.0.0.1")
    ranks = [FakeRank(), FakeRank()]
    asyncio.run(begin(ranks))
    places = [(r.placed.rank, r.placed.num_ranks, r.placed.host, r.placed.port) for r in ranks]
    assert places == [(0, 2, "10.0.0.1", 1234), (1, 2, "10.0.0.1", 1234)]


def test_a_rank_that_fails_in_warm_up_says_why(monkeypatch):
    monkeypatch.setattr(world_group.ray.util, "get_node_ip_address", lambda: "10.0.0.1")
    ranks = [FakeRank(), FakeRank(reason=RuntimeError("out of memory"))]
    with pytest.raises(RuntimeError, match="out of memory"):
        asyncio.run(begin(ranks))
