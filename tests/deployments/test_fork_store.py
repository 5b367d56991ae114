"""The store of worlds, and its callers."""

import asyncio

import pytest
from ray.exceptions import RayError

from deployments.fork_store import ClusterForks, ForkStore, StoredWorlds
from tests.deployments.fakes import Remote
from transport.wire.errors import Busy, Refused, SessionGone


def test_the_oldest_worlds_make_room_for_a_new_one():
    worlds = StoredWorlds(budget_bytes=10, ttl_s=60)
    for number in range(4):
        assert worlds.put(f"{number}", bytes(4), now=number)
    found = [worlds.get(f"{number}", now=4) is not None for number in range(4)]
    assert found == [False, False, True, True] and worlds.num_bytes == 8


def test_a_world_larger_than_the_store_is_not_kept_and_removes_no_other():
    worlds = StoredWorlds(budget_bytes=10, ttl_s=60)
    worlds.put("a", bytes(10), now=0)
    assert not worlds.put("b", bytes(11), now=0)
    assert worlds.get("a", now=0) == bytes(10)


def test_forks_make_room_for_worlds_of_lost_sockets_and_push_out_none():
    worlds = StoredWorlds(budget_bytes=10, ttl_s=60)
    worlds.put("left", bytes(4), now=0, is_fork=False)
    assert worlds.put("fork 1", bytes(4), now=1) and worlds.put("fork 2", bytes(4), now=2)
    assert not worlds.put("large fork", bytes(7), now=3)
    found = [worlds.get(name, now=3) is not None for name in ("left", "fork 1", "fork 2")]
    assert found == [True, False, True]
    assert worlds.put("left 2", bytes(4), now=4, is_fork=False)
    assert worlds.put("left 3", bytes(4), now=5, is_fork=False)
    names = ("left", "fork 2", "left 2", "left 3")
    assert [worlds.get(name, now=5) is not None for name in names] == [False, False, True, True]
    assert worlds.num_bytes == 8


def test_a_world_is_kept_for_its_time_and_read_any_number_of_times():
    worlds = StoredWorlds(budget_bytes=10, ttl_s=60)
    worlds.put("a", b"a", now=0)
    worlds.put("b", b"b", now=30)
    assert [worlds.get("a", now=60), worlds.get("a", now=60.1)] == [b"a", None]
    assert worlds.get("b", now=90) == b"b" and worlds.num_bytes == 1


def test_a_world_that_is_taken_is_gone():
    worlds = StoredWorlds(budget_bytes=10, ttl_s=60)
    worlds.put("a", b"one", now=0)
    worlds.put("a", b"two", now=0)  # the same token again
    assert [worlds.take("a", now=1), worlds.take("a", now=1)] == [b"two", None]
    assert worlds.num_bytes == 0


class Handle:
    """The deployment, or one that raises or does not answer."""

    def __init__(self, *, fault=None, budget_bytes=100):
        store = ForkStore(budget_bytes=budget_bytes, ttl_s=60)
        for name in ("put", "get", "take"):
            setattr(self, name, Remote(self.break_by(fault, getattr(store, name))))

    @staticmethod
    def break_by(fault, call):
        async def respond(*args):
            if fault is TimeoutError:
                await asyncio.Event().wait()
            if fault is not None:
                raise fault
            return await call(*args)

        return respond


def call(scenario, **options):
    async def run():
        return await scenario(ClusterForks(Handle(**options), ttl_s=60, timeout_s=0.05))

    return asyncio.run(run())


def test_a_fork_is_opened_by_its_token_any_number_of_times():
    async def scenario(forks):
        token = await forks.put(b"world")
        other = await forks.put(b"another")
        assert token != other and len(token) >= 22
        return [await forks.get(token), await forks.get(token), await forks.get(other)]

    assert call(scenario) == [b"world", b"world", b"another"]


def test_a_world_with_a_token_of_its_own_is_taken_once():
    async def scenario(forks):
        assert await forks.put(b"world", token="mine") == "mine"
        assert await forks.take("mine") == b"world"
        await forks.take("mine")

    with pytest.raises(SessionGone) as gone:
        call(scenario)
    assert gone.value.field == "resume" and gone.value.close_code is None


def test_an_unknown_fork_is_gone():
    with pytest.raises(SessionGone) as gone:
        call(lambda forks: forks.get("unknown"))
    assert gone.value.field == "fork"


def test_a_world_larger_than_the_store_is_refused():
    with pytest.raises(Refused, match="no room"):
        call(lambda forks: forks.put(bytes(101)))


@pytest.mark.parametrize("fault", [RayError("gone"), TimeoutError])
def test_a_store_that_does_not_answer_refuses_a_fork_and_is_busy_for_its_readers(fault):
    with pytest.raises(Refused, match="try again") as refused:
        call(lambda forks: forks.put(b"world"), fault=fault)
    assert refused.value.close_code is None  # the session goes on
    with pytest.raises(Busy) as busy:
        call(lambda forks: forks.get("a"), fault=fault)
    assert busy.value.retry_after_s == 5
