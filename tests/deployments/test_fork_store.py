"""The store of worlds, and its callers."""

import asyncio

import pytest
from ray.exceptions import RayError

from deployments.fork_store import ClusterForks, ForkStore, LeftWorld, StoredWorlds
from tests.deployments.fakes import Remote
from transport.wire.errors import Busy, Refused, SessionGone


def stored(budget_bytes=10):
    return StoredWorlds(budget_bytes=budget_bytes, ttl_s=60)


def left(data, *, age_s=0.0, claim=1):
    return LeftWorld(data=data, age_s=age_s, claim=claim)


def kept(worlds, names, *, now):
    """Those of these forks that are there."""
    return [name for name in names if worlds.get(name, now=now) is not None]


def test_the_oldest_worlds_make_room_for_a_new_one():
    worlds = stored()
    for number in range(4):
        assert worlds.put_fork(f"{number}", bytes(4), session=f"s{number}", now=number)
    assert kept(worlds, "0123", now=4) == ["2", "3"] and worlds.num_bytes == 8


def test_a_session_that_forks_at_each_chunk_pushes_out_its_own_forks():
    worlds = stored(100)
    worlds.put_fork("mine", bytes(10), session="me", now=0)
    for number in range(100):
        assert worlds.put_fork(f"{number}", bytes(10), session="other", now=number / 10)
    assert kept(worlds, ["mine", *map(str, range(100))], now=10) == [
        "mine",
        *map(str, range(91, 100)),
    ]
    assert worlds.put_fork("mine too", bytes(30), session="me", now=10)
    assert kept(worlds, ["mine", "mine too", "93", "94"], now=10) == ["mine", "mine too", "94"]


def test_of_sessions_with_as_many_forks_the_one_that_forks_makes_room():
    worlds = stored(40)
    for number in range(4):
        worlds.put_fork(f"{number}", bytes(10), session="ab"[number % 2], now=number)
    assert worlds.put_fork("new", bytes(10), session="b", now=4)
    assert kept(worlds, ["0", "1", "2", "3", "new"], now=4) == ["0", "2", "3", "new"]


def test_a_world_larger_than_the_store_is_not_kept_and_removes_no_other():
    worlds = stored()
    worlds.put_fork("a", bytes(10), session="s", now=0)
    assert not worlds.put_fork("b", bytes(11), session="s", now=0)
    assert not worlds.put_left("c", left(bytes(11)), now=0)
    assert worlds.get("a", now=0) == bytes(10)


def test_forks_make_room_for_worlds_of_lost_sockets_and_push_out_none():
    worlds = stored()
    worlds.put_left("left", left(bytes(4)), now=0)
    assert worlds.put_fork("fork 1", bytes(4), session="s", now=1)
    assert worlds.put_fork("fork 2", bytes(4), session="s", now=2)
    assert not worlds.put_fork("large fork", bytes(7), session="s", now=3)
    assert kept(worlds, ["fork 1", "fork 2"], now=3) == ["fork 2"]
    assert worlds.put_left("left 2", left(bytes(4)), now=4)
    assert worlds.put_left("left 3", left(bytes(4)), now=5)
    assert kept(worlds, ["fork 2"], now=5) == [] and worlds.num_bytes == 8
    names = ("left", "left 2", "left 3")
    assert [worlds.take(name, now=5) is not None for name in names] == [False, True, True]


def test_a_fork_is_kept_for_its_time_and_read_any_number_of_times():
    worlds = stored()
    worlds.put_fork("a", b"a", session="s", now=0)
    worlds.put_fork("b", b"b", session="s", now=30)
    assert [worlds.get("a", now=60), worlds.get("a", now=60.1)] == [b"a", None]
    assert worlds.get("b", now=90) == b"b" and worlds.num_bytes == 1


@pytest.mark.parametrize("kind", ["a fork", "a lost socket"])
def test_worlds_that_nobody_reads_make_room_after_their_time(kind):
    worlds = stored()
    worlds.put_left("left", left(bytes(4)), now=0)
    worlds.put_left("moved", LeftWorld(data=bytes(2), age_s=0.0, claim=1, has_moved=True), now=0)
    worlds.put_fork("fork", bytes(4), session="s", now=30)
    if kind == "a fork":
        assert worlds.put_fork("new", bytes(6), session="s", now=61)
    else:
        assert worlds.put_left("new", left(bytes(6)), now=61)
    assert worlds.num_bytes == 10 and kept(worlds, ["fork"], now=61) == ["fork"]


def test_a_world_that_is_taken_is_gone():
    worlds = stored()
    worlds.put_left("a", left(b"one"), now=0)
    worlds.put_left("a", left(b"two"), now=0)  # the same token again
    assert worlds.take("a", now=1).data == b"two" and worlds.take("a", now=1) is None
    assert worlds.num_bytes == 0


def test_a_session_grows_older_while_its_world_is_stored():
    worlds = stored()
    worlds.put_left("a", left(b"a", age_s=100.0), now=5)
    assert worlds.take("a", now=25).age_s == 120


def test_the_token_of_a_lost_socket_opens_no_copy_and_that_of_a_fork_takes_nothing():
    worlds = stored()
    worlds.put_left("left", left(b"a"), now=0)
    worlds.put_fork("fork", b"b", session="s", now=0)
    assert worlds.get("left", now=0) is None and worlds.take("fork", now=0) is None
    assert worlds.num_bytes == 2


def test_what_an_older_socket_leaves_is_not_kept_beside_a_later_one():
    worlds = stored()
    assert worlds.put_left("a", left(b"old"), now=0)
    assert worlds.claim("a", 2, now=1)  # a socket attaches to the session in its group
    assert worlds.take("a", now=2) is None and worlds.num_bytes == 0
    assert not worlds.put_left("a", left(b"older"), now=3)
    assert worlds.put_left("a", left(b"new", claim=2), now=4)
    assert not worlds.put_left("a", left(b"older"), now=5)
    assert worlds.take("a", now=6) == left(b"new", age_s=2.0, claim=3)
    assert not worlds.put_left("a", left(b"new", claim=2), now=7)
    assert worlds.put_left("a", left(b"new", claim=3), now=8)  # whoever took it found no place


def test_the_newer_token_of_a_session_is_read_again_until_its_world_is_stored():
    worlds = stored()
    assert worlds.put_left("a", LeftWorld(data=b"b", age_s=0.0, claim=1, has_moved=True), now=0)
    taken = [worlds.take("a", now=1) for _ in range(2)]
    assert taken == [LeftWorld(data=b"b", age_s=0.0, claim=1, has_moved=True)] * 2
    assert worlds.put_left("a", left(b"world"), now=2)
    assert worlds.take("a", now=2) == left(b"world", claim=2)


@pytest.mark.parametrize("last", ["the world", "the newer token"])
def test_a_world_stays_where_the_newer_token_of_its_session_comes_later(last):
    worlds = stored()
    sent = [LeftWorld(data=b"b", age_s=0.0, claim=1, has_moved=True), left(b"world")]
    for one in sent if last == "the world" else sent[::-1]:
        assert worlds.put_left("a", one, now=0)
    assert worlds.take("a", now=1).data == b"world"
    assert worlds.put_left("a", LeftWorld(data=b"c", age_s=0.0, claim=2, has_moved=True), now=2)
    assert worlds.take("a", now=2).has_moved


def test_claims_are_forgotten_after_their_time_and_are_not_without_number(monkeypatch):
    monkeypatch.setattr("deployments.fork_store.MAX_CLAIMS", 3)
    worlds = stored()
    for number in range(5):
        worlds.claim(f"{number}", 2, now=number)
    assert list(worlds._claims) == ["2", "3", "4"]
    worlds.claim("new", 1, now=63.5)
    assert list(worlds._claims) == ["4", "new"]


class Handle:
    """The deployment, or one that raises or does not answer."""

    def __init__(self, *, fault=None, budget_bytes=100):
        store = ForkStore(budget_bytes=budget_bytes, ttl_s=60)
        for name in ("put_fork", "put_left", "claim", "get", "take"):
            setattr(self, name, Remote(self.break_by(fault, getattr(store, name))))

    @staticmethod
    def break_by(fault, call):
        async def respond(*args):
            if fault is TimeoutError:
                await asyncio.Event().wait()
            if fault == "late":
                await asyncio.sleep(0.1)
            elif fault is not None:
                raise fault
            return await call(*args)

        return respond


def call(scenario, **options):
    async def run():
        return await scenario(ClusterForks(Handle(**options), ttl_s=60, timeout_s=0.05))

    return asyncio.run(run())


def test_a_fork_is_opened_by_its_token_any_number_of_times():
    async def scenario(forks):
        token = await forks.fork(b"world", session="s")
        other = await forks.fork(b"another", session="s")
        assert await forks.fork(b"another", session="s", token=other) == other
        assert token != other and len(token) >= 22
        return [await forks.get(token), await forks.get(token), await forks.get(other)]

    assert call(scenario) == [b"world", b"world", b"another"]


def test_a_world_of_a_lost_socket_is_taken_once():
    async def scenario(forks):
        await forks.keep("mine", left(b"world", age_s=7.0))
        taken = await forks.take("mine")
        assert taken.data == b"world" and taken.age_s >= 7 and taken.claim == 2
        await forks.keep("mine", left(b"world"))  # by a process that did not know
        await forks.take("mine")

    with pytest.raises(SessionGone) as gone:
        call(scenario)
    assert gone.value.field == "resume" and gone.value.close_code is None


def test_a_world_that_the_store_gives_away_is_waited_for():
    async def scenario(forks):
        with pytest.raises(Busy):
            await forks.get("a fork, which the store still has")
        await forks.keep("mine", left(b"world"))
        return await forks.take("mine")

    assert call(scenario, fault="late").data == b"world"


def test_an_unknown_fork_is_gone():
    with pytest.raises(SessionGone) as gone:
        call(lambda forks: forks.get("unknown"))
    assert gone.value.field == "fork"


def test_a_world_larger_than_the_store_is_refused():
    with pytest.raises(Refused, match="no room"):
        call(lambda forks: forks.fork(bytes(101), session="s"))


@pytest.mark.parametrize("fault", [RayError("gone"), TimeoutError])
def test_a_store_that_does_not_answer_refuses_a_fork_and_is_busy_for_its_readers(fault):
    with pytest.raises(Refused, match="try again") as refused:
        call(lambda forks: forks.fork(b"world", session="s"), fault=fault)
    assert refused.value.close_code is None  # the session goes on
    with pytest.raises(Busy) as busy:
        call(lambda forks: forks.get("a"), fault=fault)
    assert busy.value.retry_after_s == 5

    async def leave(forks):
        await forks.keep("a", left(b"world"))
        await forks.claim("a", 2)

    call(leave, fault=fault)  # its client has gone, so that nobody is told
