"""Places in a group's line that are kept for clients that cannot be admitted now."""

import asyncio

import pytest
from msgspec.structs import replace

from deployments.sessions.admission import Demand
from deployments.sessions.lease_reply import AskAgain, Full, Waiting
from tests.deployments.one_group import CLIP, SIZE, STAYS, WALK, Group, run, settle


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


@pytest.mark.parametrize("place", [None, "kept in the group that died"])
def test_a_client_whose_group_died_lets_the_worlds_that_were_there_go_first(place):
    async def scenario(group):
        waited = replace(WALK, waited_s=9.0, gives_way=True, place=place)
        waiting = await group.ask("waiting", waited)
        assert waiting == [Waiting(1)]
        assert (await group.ask("world", replace(WALK, returning=True)))[-1] == 1
        await settle()
        assert waiting[-1].position == 1
        group.sessions.end("world", 1)
        await settle()
        assert waiting[-1].position == 1
        group.sessions.waiting._stop_giving_way("waiting")  # as the group itself does
        await settle()
        assert waiting[-1] == 1

    run(scenario, max_sessions=1)


def test_a_client_that_gives_way_is_admitted_if_no_world_comes():
    async def scenario(group):
        waiting = await group.ask("waiting", replace(WALK, gives_way=True))
        while waiting[-1] != 1:
            await asyncio.sleep(0.01)

    run(scenario, keep_s=0.05)


def test_a_client_that_has_left_while_it_gave_way_is_not_admitted():
    async def scenario(group):
        gone = await group.ask("gone", replace(WALK, gives_way=True))
        group.sessions.leave("gone")
        group.sessions.waiting._stop_giving_way("gone")  # as the group itself does
        await settle()
        assert "gone" not in group.states() and gone[-1] != 1

    run(scenario)
