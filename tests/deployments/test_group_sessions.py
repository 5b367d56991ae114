"""Waits and leases of one group."""

import asyncio

import pytest
from msgspec.structs import replace

from deployments.sessions.admission import Demand, GroupLimits
from deployments.sessions.lease_reply import AskAgain, Ended, Full, Waiting
from tests.deployments.one_group import CLIP, SIZE, STAYS, WALK, Group, run, settle


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


def test_a_client_that_waited_long_enough_is_asked_to_ask_again():
    async def scenario(group):
        await group.walk("a")
        replies = await group.ask("b")
        group.now += 5
        await asyncio.sleep(0.05)  # longer than the hold
        await settle()
        assert replies[0] == Waiting(1) and isinstance(replies[-1], AskAgain)
        assert replies[-1].group_id == "one"
        await group.calls["b"]
        while len(group.sessions.line):  # its place is kept for a short time
            await asyncio.sleep(0.01)

    run(scenario, max_sessions=1, hold_s=0.04, keep_s=0.04)


async def send_first_to_ask_again(group, demand=WALK):
    """A session, and three clients that wait, of which the first one must ask again.

    Returns the place that is kept for the first one, and the replies to the others.
    """
    await group.walk("a")
    first = await group.ask("first", demand)
    group.now += 3
    second = await group.ask("second", demand)
    group.now += 3
    third = await group.ask("third", demand)  # all that wait look at the clock
    assert first[0] == Waiting(1) and isinstance(first[-1], AskAgain)
    group.sessions.leave("first")  # WorldGroup calls this whenever a call has ended
    return first[-1].place, second, third


@pytest.mark.parametrize("demand", [WALK, replace(STAYS, returning=True)], ids=["new", "returning"])
def test_a_place_that_frees_while_its_client_asks_again_goes_to_nobody_else(demand):
    async def scenario(group):
        place, second, third = await send_first_to_ask_again(group, demand)
        group.sessions.end("a", 1)
        await settle()
        assert (second, third) == ([Waiting(2)], [Waiting(3)]) and group.states() == {}
        again = replace(demand, waited_s=1.0, place=place)  # it took long to arrive
        assert await group.ask("again", again) == [1]
        await settle()
        assert (second[-1].position, third[-1].position) == (1, 2)

    run(scenario, max_sessions=1, hold_s=5.0)


def test_a_client_that_another_group_admits_leaves_its_place_to_the_next_soon():
    async def scenario(group):
        place, second, _ = await send_first_to_ask_again(group)
        other = Group(max_sessions=1)
        assert await other.ask("again", replace(WALK, waited_s=6.0, place=place)) == [1]
        group.sessions.end("a", 1)
        while second[-1] != 1:
            await asyncio.sleep(0.01)
        other.calls["again"].cancel()

    run(scenario, max_sessions=1, hold_s=5.0, keep_s=0.05)


def test_a_place_that_is_not_kept_any_more_is_the_one_of_the_clients_wait():
    async def scenario(group):
        place, second, third = await send_first_to_ask_again(group)
        group.sessions.leave(place)  # as the group itself does
        await settle()
        assert (second[-1], third[-1]) == (Waiting(1), Waiting(2))
        again = replace(WALK, waited_s=6.0, place=place)
        assert await group.ask("again", again) == [Waiting(1)]
        assert (second[-1], third[-1]) == (Waiting(2), Waiting(3))

    run(scenario, max_sessions=1, hold_s=5.0)


def test_nobody_is_sent_away_while_a_free_place_is_kept():
    """Else kept places, one behind the other, would keep it free for longer."""

    async def scenario(group):
        place, second, third = await send_first_to_ask_again(group)
        group.sessions.end("a", 1)
        group.now += 10
        fourth = await group.ask("fourth")
        assert (second, third, fourth) == ([Waiting(2)], [Waiting(3)], [Waiting(4)])
        group.sessions.leave(place)  # as the group itself does
        await settle()
        assert second[-1] == 1
        assert isinstance(third[-1], AskAgain) and isinstance(fourth[-1], Waiting)

    run(scenario, max_sessions=1, hold_s=5.0)


def test_a_kept_place_counts_in_the_line():
    async def scenario(group):
        place, second, third = await send_first_to_ask_again(group)
        assert isinstance((await group.ask("fourth"))[-1], Full)
        assert await group.ask("again", replace(WALK, waited_s=6.0, place=place)) == [Waiting(1)]
        assert (second, third) == ([Waiting(2)], [Waiting(3)])

    run(scenario, max_sessions=1, max_waiting=3, hold_s=5.0)


def test_a_clip_passes_a_kept_place_that_waits_for_speed_and_not_one_that_has_it():
    async def scenario(group):
        group.sessions.measure(SIZE, 0.6)
        await send_first_to_ask_again(group)
        assert (await group.ask("clip", CLIP))[-1] == 1
        group.sessions.end("a", 1)
        assert await group.ask("late clip", CLIP) == [Waiting(4)]
        assert group.states() == {"clip": "opening"}

    run(scenario, hold_s=5.0)


def test_a_client_that_asks_again_keeps_its_place_and_is_never_turned_away():
    async def scenario(group):
        await group.walk("a")
        assert (await group.ask("new"))[-1] == Waiting(1)
        assert await group.ask("newer") == [Full("every world is taken, and 1 clients wait", 10)]
        again = Demand(width=16, height=16, waited_s=5.0)
        assert (await group.ask("older", again))[-1] == Waiting(1)
        assert group.sessions.line.position("new") == 2

    run(scenario, max_sessions=1, max_waiting=1)


def test_a_client_whose_group_died_lets_the_worlds_that_were_there_go_first():
    async def scenario(group):
        waited = replace(WALK, waited_s=9.0, gives_way=True)
        waiting = await group.ask("waiting", waited)
        assert waiting == [Waiting(1)]
        assert (await group.ask("world", replace(WALK, returning=True)))[-1] == 1
        await settle()
        assert waiting[-1].position == 1
        group.sessions.end("world", 1)
        while waiting[-1] != 1:
            await asyncio.sleep(0.01)

    run(scenario, max_sessions=1, keep_s=0.05)


def test_a_client_that_gives_way_is_admitted_if_no_world_comes():
    async def scenario(group):
        waiting = await group.ask("waiting", replace(WALK, gives_way=True))
        while waiting[-1] != 1:
            await asyncio.sleep(0.01)
        gone = await group.ask("gone", replace(WALK, gives_way=True))
        group.sessions.leave("gone")
        await asyncio.sleep(0.2)  # longer than it would have given way
        assert "gone" not in group.states() and gone[-1] != 1

    run(scenario, keep_s=0.05)


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
