"""How a group starts and watches its ranks, on ranks of ten lines."""

import asyncio
import gc

import pytest
from ray.exceptions import RayActorError

from deployments.schema_keys import ConfigError
from deployments.sessions.admission import Demand, GroupLimits
from deployments.sessions.lease_reply import AskAgain, Ended, Leased, NotHere, Waiting
from deployments.world_group import Lease, WorldGroup, start_group, watch


class ProcessEnded(BaseException):
    """Stands for the end of the process."""


def end_process(status):
    raise ProcessEnded


class Remote:
    def __init__(self, call):
        self.remote = call


class FakeRank:
    """A rank that lives, answers and warms up, unless a test takes one of these from it."""

    def __init__(self, *, busy_s=0.0, failure=None):
        self.busy, self.failure, self.assignment = busy_s, failure, None
        for name in ("open_rendezvous", "start", "start_loop", "wait_failed", "busy_s"):
            setattr(self, name, Remote(getattr(self, f"do_{name}")))

    async def do_open_rendezvous(self, host):
        return 1234

    async def do_start(self, assignment):
        self.assignment = assignment

    async def do_start_loop(self):
        if self.failure:
            await asyncio.Event().wait()

    async def do_wait_failed(self):
        if self.failure:
            raise self.failure
        await asyncio.Event().wait()

    async def do_busy_s(self):
        if self.busy is None:
            await asyncio.Event().wait()
        return self.busy


async def watch_shortly(rank):
    watching = watch(rank, 0, timeout_s=0.05, period_s=0.01, exit_process=end_process)
    await asyncio.wait_for(watching, 0.5)


@pytest.mark.parametrize(
    "rank, reason",
    [
        (lambda: FakeRank(busy_s=0.06), "did not answer or finish a step in 0.05 s"),
        (lambda: FakeRank(busy_s=None), "did not answer or finish a step in 0.05 s"),
        (lambda: FakeRank(failure=RuntimeError("out of memory")), "ended: out of memory"),
    ],
    ids=["a step hangs", "no answer", "dead"],
)
def test_a_rank_that_hangs_or_dies_ends_its_group(rank, reason, caplog):
    with pytest.raises(ProcessEnded):
        asyncio.run(watch_shortly(rank()))
    assert reason in caplog.text


def test_a_rank_at_work_does_not_end_its_group():
    with pytest.raises(TimeoutError):
        asyncio.run(watch_shortly(FakeRank(busy_s=0.04)))


def test_ranks_get_their_numbers_and_the_rendezvous():
    ranks = [FakeRank(), FakeRank()]
    asyncio.run(start_group(ranks, host="10.0.0.1"))
    got = [(a.rank, a.num_ranks, a.host, a.port) for a in (rank.assignment for rank in ranks)]
    assert got == [(0, 2, "10.0.0.1", 1234), (1, 2, "10.0.0.1", 1234)]


def test_a_rank_that_fails_in_warm_up_fails_the_start_with_its_reason():
    ranks = [FakeRank(), FakeRank(failure=RuntimeError("out of memory"))]
    with pytest.raises(RuntimeError, match="out of memory"):
        asyncio.run(start_group(ranks, host="10.0.0.1"))


def test_ranks_that_end_later_leave_no_failure_without_an_owner(caplog):
    async def scenario():
        ranks = [FakeRank(), FakeRank()]
        end = asyncio.Event()

        async def fail():
            await end.wait()
            raise RuntimeError("killed")

        for rank in ranks:
            rank.wait_failed = Remote(fail)
        await start_group(ranks, host="10.0.0.1")
        end.set()
        await asyncio.sleep(0.01)

    asyncio.run(scenario())
    gc.collect()
    assert not caplog.text


LEASED = Leased(session_id="a", epoch=2, secret="s", attached=True)


class LeasingRank:
    """Streams these replies to a lease call, as Ray does, and then waits. Notes other calls."""

    def __init__(self, *replies):
        self.replies, self.demands, self.left, self.limits = replies, [], [], []
        self.lease = Remote(self.do_lease)
        self.leave = Remote(self.left.append)
        self.set_limits = Remote(self.limits.append)

    async def do_lease(self, call_id, demand):
        self.demands.append((call_id, demand))
        for reply in self.replies:
            future = asyncio.get_running_loop().create_future()
            future.set_result(reply)
            yield future
        if self.replies and self.replies[-1] is LEASED:
            await asyncio.Event().wait()


def group_of(rank):
    group = WorldGroup.__new__(WorldGroup)  # its __init__ starts ranks in a placement group
    group._ranks, group._group_id = [rank], "one"
    return group


def lease(rank, num_replies):
    """The first replies of a lease call, which then ends as if its client had left."""

    async def run():
        replies = group_of(rank).lease(Demand(width=16, height=16))
        taken = [await anext(replies) for _ in range(num_replies)]
        await replies.aclose()
        await asyncio.sleep(0)
        return taken

    return asyncio.run(run())


def test_a_lease_names_its_session_the_group_and_the_first_rank():
    rank = LeasingRank(Waiting(2), Waiting(1), LEASED)
    first, second, third = lease(rank, 3)
    ((call_id, demand),) = rank.demands
    assert (first, second) == (Waiting(2), Waiting(1)) and demand == Demand(width=16, height=16)
    assert third == Lease(
        session_id="a", rank=rank, group_id="one", epoch=2, secret="s", attached=True
    )
    assert rank.left == [call_id]


def test_the_end_of_a_lease_ends_the_call_with_its_reason():
    rank = LeasingRank(LEASED, Ended("taken_over"))

    async def run():
        replies = [reply async for reply in group_of(rank).lease(Demand(width=16, height=16))]
        await asyncio.sleep(0)
        return replies

    assert asyncio.run(run())[1:] == [Ended("taken_over")]
    assert rank.left == [rank.demands[0][0]]


@pytest.mark.parametrize(
    "replies", [(Waiting(1),), (Waiting(1), AskAgain("one", "kept")), (NotHere("one"),)]
)
def test_a_call_that_ends_without_a_lease_leaves_the_line(replies):
    rank = LeasingRank(*replies)
    assert lease(rank, len(replies)) == list(replies)
    assert rank.left == [rank.demands[0][0]]


def test_a_client_that_leaves_at_once_leaves_its_lease_after_it_has_begun():
    """A `leave` that overtakes the lease would end nothing, and the session would stay."""

    class SlowRank(LeasingRank):
        begun = None

        async def do_lease(self, call_id, demand):
            self.begun = asyncio.Event()
            await self.begun.wait()
            async for reply in super().do_lease(call_id, demand):
                yield reply

    async def run():
        rank = SlowRank(LEASED)
        leaving = asyncio.create_task(anext(group_of(rank).lease(Demand(width=16, height=16))))
        while rank.begun is None:
            await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await asyncio.sleep(0.01)
        assert rank.left == []
        rank.begun.set()
        while not rank.left:
            await asyncio.sleep(0)
        assert rank.left == [call_id for call_id, _ in rank.demands]

    asyncio.run(run())


def test_a_redeploy_of_limits_reaches_the_first_rank():
    rank = LeasingRank()
    group_of(rank).reconfigure({"group": {"pace": "shared", "max_waiting": 5}})
    assert rank.limits == [GroupLimits(pace="shared", max_waiting=5)]
    with pytest.raises(ConfigError, match=r"user_config\.group\.pase: unknown key"):
        group_of(rank).reconfigure({"group": {"pase": "shared"}})


def test_a_group_that_has_drained_waits_once_for_its_detached_sessions():
    rank, empty = LeasingRank(), []

    async def wait_empty():
        await asyncio.sleep(0)
        empty.append(True)

    async def run():
        group = group_of(rank)
        assert group.__del__() is None  # it never was warm
        rank.wait_empty, group._has_sessions = Remote(wait_empty), True
        await group.__del__()
        assert empty == [True] and group.__del__() is None

    asyncio.run(run())


def test_a_group_whose_rank_has_died_ends_at_once():
    rank = LeasingRank()

    async def wait_empty():
        raise RayActorError

    async def run():
        group = group_of(rank)
        rank.wait_empty, group._has_sessions = Remote(wait_empty), True
        await group.__del__()

    asyncio.run(run())
