"""Waits and leases of one group."""

import asyncio

import pytest
from msgspec.structs import replace

from deployments.sessions.admission import GroupLimits
from deployments.sessions.lease_reply import AskAgain, Ended, Full, Waiting
from tests.deployments.one_group import CLIP, SIZE, STAYS, WALK, run, settle


def test_a_lease_lasts_until_its_session_ends():
    async def scenario(group):
        replies = await group.walk("a")
        assert group.states() == {"a": "active"} and not group.calls["a"].done()
        group.sessions.end("a", 1)
        await group.calls["a"]
        assert replies == [1]
        assert group.released == ["a"] and group.states() == {}
        assert group.sessions.registry.ends == {"closed": 1}
        group.sessions.end("a", 1)

    run(scenario)


def test_a_session_that_is_not_resumable_ends_with_its_call():
    async def scenario(group):
        await group.walk("a")
        group.sessions.leave("a")
        await group.calls["a"]
        assert group.released == ["a"] and group.sessions.registry.ends == {"closed": 1}

    run(scenario)


def test_a_holder_does_not_take_its_own_move_for_another_sockets():
    async def scenario(group):
        replies = await group.walk("a", STAYS)
        assert not group.sessions.end("a", 1, True)
        await group.calls["a"]
        assert replies == [1]
        assert group.sessions.end("a", 0)  # an older lease, which has not heard of the newer one
        await group.walk("b", STAYS)
        group.sessions.mark_faulty("b", "failed")
        assert not group.sessions.end("b", 1, True)
        assert group.sessions.registry.ends == {"moved": 1, "failed": 1}

    run(scenario)


def test_a_client_that_leaves_between_its_admission_and_its_lease_leaves_nothing():
    async def scenario(group):
        await group.walk("a")
        replies = await group.ask("b", STAYS)
        group.sessions.end("a", 1)  # "b" is admitted; the reply is on its way
        group.sessions.leave("b")
        await group.calls["b"]
        assert replies == [Waiting(1)] and group.released == ["a", "b"]
        assert group.sessions.registry.ends == {"closed": 1, "client_left": 1}

    run(scenario, max_sessions=1)


def test_the_second_walker_waits_for_the_first_where_the_speed_is_one_sessions():
    async def scenario(group):
        group.sessions.measure(SIZE, 0.6)
        await group.walk("a")
        second, third = await group.ask("b"), await group.ask("c")
        assert (second, third) == ([Waiting(1)], [Waiting(2)])
        group.sessions.end("a", 1)
        await settle()
        assert second == [Waiting(1), 1] and third[:2] == [Waiting(2), Waiting(1, 0)]

    run(scenario)


def test_a_shared_group_admits_as_many_as_its_memory_holds():
    async def scenario(group):
        group.sessions.measure(SIZE, 0.6)
        assert [(await group.ask(name))[0] for name in "abc"] == [1, 1, Waiting(1)]

    run(scenario, pace="shared", num_bytes=2)


def test_a_group_that_turns_out_to_be_faster_admits_those_who_wait():
    async def scenario(group):
        group.sessions.measure(SIZE, 0.6)
        await group.walk("a")
        replies = await group.ask("b")
        for _ in range(16):
            group.sessions.measure(SIZE, 0.4)
        await settle()
        assert replies[-1] == 1

    run(scenario)


def test_a_clip_passes_those_who_wait_for_speed_and_not_those_who_wait_for_memory():
    async def scenario(group):
        group.sessions.measure(SIZE, 0.6)
        await group.walk("a")
        assert (await group.ask("b"))[-1] == Waiting(1)
        assert (await group.ask("clip", CLIP))[-1] == 1
        assert (await group.ask("c"))[-1] == Waiting(2)  # memory is taken, too
        late = await group.ask("late", CLIP)
        assert late[-1] == Waiting(3)
        group.sessions.end("a", 1)  # "b" takes its place and its memory
        await settle()
        assert late[-1] == Waiting(2, 0)

    run(scenario, num_bytes=2)


def test_a_paused_session_frees_its_speed_and_its_next_step_takes_it_again():
    async def scenario(group):
        group.sessions.measure(SIZE, 0.6)
        await group.walk("a")
        second = await group.ask("b")
        group.sessions.pause("a", 1)
        await settle()
        assert second[-1] == 1 and group.states() == {"a": "paused", "b": "opening"}
        assert await group.sessions.activate("a", 1)
        assert group.states()["a"] == "active"
        assert (await group.ask("c"))[-1] == Waiting(1, 0)

    run(scenario)


def test_twenty_clients_that_leave_the_line_make_room_for_the_next_at_once():
    async def scenario(group):
        await group.walk("a")
        for number in range(20):
            assert (await group.ask(f"left {number}"))[-1] == Waiting(number + 1)
        last = await group.ask("last")
        assert last[-1] == Waiting(21)
        for number in range(20):
            group.sessions.leave(f"left {number}")
        await settle()
        assert last[-1] == Waiting(1)
        group.sessions.end("a", 1)
        await settle()
        assert last[-1] == 1
        assert all(group.calls[f"left {number}"].done() for number in range(20))
        assert group.sessions.registry.ends == {"closed": 1}

    run(scenario, max_sessions=1)


def test_a_call_that_is_cancelled_leaves_no_place():
    async def scenario(group):
        await group.walk("a")
        await group.ask("b")
        group.calls["b"].cancel()
        await settle()
        assert len(group.sessions.line) == 0

    run(scenario, max_sessions=1)


@pytest.mark.parametrize("leave", ["leave", "cancel"])
def test_a_client_that_leaves_the_line_makes_way_for_one_that_needs_less(leave):
    async def scenario(group):
        await group.walk("a")
        large = await group.ask("large", replace(WALK, width=32))
        small = await group.ask("small")
        assert (large, small) == ([Waiting(1)], [Waiting(2)])
        if leave == "leave":
            group.sessions.leave("large")
        else:
            group.calls["large"].cancel()
        await settle()
        assert small[-1] == 1

    run(scenario, num_bytes=2)


def test_new_limits_admit_those_who_wait_and_cut_nobody():
    async def scenario(group):
        await group.walk("a")
        second, third = await group.ask("b"), await group.ask("c")
        group.sessions.set_limits(GroupLimits(max_sessions=2, max_waiting=1))
        await settle()
        assert second[-1] == 1 and third[-1].position == 1
        assert isinstance((await group.ask("d"))[-1], Full)
        group.sessions.set_limits(GroupLimits(max_sessions=1))
        await settle()
        assert group.states() == {"a": "active", "b": "opening"}

    run(scenario, max_sessions=1)


def test_a_session_that_is_not_touched_ends_and_makes_room():
    async def scenario(group):
        replies = await group.walk("forgotten")
        second = await group.ask("b")
        group.sessions.expire_idle(group.now + 31)
        await settle()
        assert group.released == ["forgotten"] and second[-1] == 1
        assert replies == [1, Ended("expired")]
        assert group.sessions.registry.ends == {"expired": 1}
        assert group.sessions.registry.num_expired == 1

    run(scenario, max_sessions=1)


def test_a_session_tells_how_it_fares():
    async def scenario(group):
        await group.walk("a")
        group.now += 7
        assert await group.sessions.activate("a", 1)
        group.sessions.count_chunk("a")
        (status,) = group.sessions.sessions()
        assert (status.session_id, status.state, status.width, status.height) == (
            "a",
            "active",
            *SIZE,
        )
        assert (status.seconds, status.num_chunks, status.num_bytes) == (7, 1, 1)
        assert not await group.sessions.activate("unknown", 1)

    run(scenario)


# ---- sessions that come from another group


RETURNS = replace(STAYS, returning=True)


def test_a_session_that_returns_is_not_refused_for_the_groups_speed():
    async def scenario(group):
        group.sessions.measure(SIZE, 0.6)
        await group.walk("a")
        assert await group.ask("b") == [Waiting(1)]
        assert (await group.ask("moved", RETURNS))[-1] == 1
        assert group.sessions.line.position("b") == 1

    run(scenario)


@pytest.mark.parametrize("limits", [{"num_bytes": 1}, {"max_sessions": 1}], ids=str)
def test_a_session_that_returns_waits_for_memory_in_front_of_all_clients(limits):
    async def scenario(group):
        await group.walk("a")
        client = await group.ask("b", replace(WALK, waited_s=50.0))
        moved = [await group.ask(name, RETURNS) for name in ("first", "second")]
        assert [client[-1], *(replies[-1] for replies in moved)] == [
            Waiting(3),
            Waiting(1),
            Waiting(2),
        ]
        group.sessions.end("a", 1)
        await settle()
        assert moved[0][-1] == 1 and moved[1][-1].position == 1 and client[-1].position == 2

    run(scenario, max_waiting=1, **limits)


def test_a_session_that_returns_and_waited_long_enough_is_asked_to_ask_again():
    async def scenario(group):
        await group.walk("a")
        replies = await group.ask("moved", RETURNS)
        group.now += 5
        await asyncio.sleep(0.05)  # longer than the hold
        await settle()
        assert replies[0] == Waiting(1) and isinstance(replies[-1], AskAgain)

    run(scenario, max_sessions=1, hold_s=0.04)
