"""Suspensions of one group's sessions."""

import asyncio

import pytest

from deployments.sessions.lease_reply import Waiting
from tests.deployments.one_group import run, settle


async def paused(group, session_id):
    await group.walk(session_id)
    group.sessions.pause(session_id, 1)
    group.now += 1


def test_a_session_that_is_paused_for_long_is_suspended_and_makes_room():
    async def scenario(group):
        await paused(group, "a")
        second = await group.ask("b")
        assert second[-1] == Waiting(1)
        group.sessions.suspender.suspend_paused()
        assert group.suspending == {}  # not yet
        group.now += 10
        group.sessions.suspender.suspend_paused()
        group.sessions.suspender.suspend_paused()  # it is being suspended
        await settle()
        assert list(group.suspending) == ["a"] and second[-1] == Waiting(1)
        group.suspending["a"].set_result(True)
        await settle()
        assert second[-1] == 1 and group.states()["a"] == "suspended"

    run(scenario, num_bytes=1, suspend_after_s=10)


@pytest.mark.parametrize("outcome", [False, RuntimeError("oh")])
def test_a_session_that_cannot_be_suspended_stays_paused_and_is_tried_later(outcome, caplog):
    async def scenario(group):
        await paused(group, "a")
        group.now += 10
        group.sessions.suspender.suspend_paused()
        await settle()
        future = group.suspending.pop("a")
        if outcome is False:
            future.set_result(False)
        else:
            future.set_exception(outcome)
        await settle()
        group.sessions.suspender.suspend_paused()
        assert group.states() == {"a": "paused"} and group.suspending == {}
        group.now += 10
        group.sessions.suspender.suspend_paused()
        await settle()
        assert list(group.suspending) == ["a"]

    run(scenario, suspend_after_s=10)
    assert ("could not be suspended" in caplog.text) == (outcome is not False)


def test_a_step_that_comes_during_a_suspension_wins():
    async def scenario(group):
        await paused(group, "a")
        group.now += 10
        group.sessions.suspender.suspend_paused()
        await settle()
        assert await group.sessions.activate("a", 1)
        group.suspending["a"].set_result(True)
        await settle()
        assert group.states() == {"a": "active"}

    run(scenario, suspend_after_s=10)


async def suspended(group, session_id):
    await paused(group, session_id)
    group.now += 10
    group.sessions.suspender.suspend_paused()
    await settle()
    group.suspending.pop(session_id).set_result(True)
    await settle()
    assert group.states()[session_id] == "suspended"


def test_a_suspended_session_goes_on_at_once_where_there_is_room():
    async def scenario(group):
        await suspended(group, "a")
        assert await group.sessions.activate("a", 1)
        assert group.states() == {"a": "active"}

    run(scenario, num_bytes=1, suspend_after_s=10)


def test_a_session_that_keeps_its_memory_is_not_asked_for_it_again_at_once():
    async def scenario(group):
        await suspended(group, "a")
        await group.walk("b")
        group.sessions.pause("b", 1)
        step = asyncio.create_task(group.sessions.activate("a", 1))
        await settle()
        group.suspending.pop("b").set_result(False)
        await settle()
        assert group.suspending == {} and not step.done()
        group.now += 10
        group.sessions.suspender.suspend_paused()
        await settle()
        group.suspending["b"].set_result(True)
        assert await step

    run(scenario, num_bytes=1, suspend_after_s=10, suspended_bytes=2)


def test_a_suspended_session_takes_the_memory_of_one_that_is_paused():
    async def scenario(group):
        await suspended(group, "a")
        await paused(group, "b")
        step = asyncio.create_task(group.sessions.activate("a", 1))
        await settle()
        assert list(group.suspending) == ["b"] and not step.done()
        group.suspending["b"].set_result(True)
        assert await step
        assert group.states() == {"a": "active", "b": "suspended"}

    run(scenario, num_bytes=1, suspend_after_s=10, suspended_bytes=2)


def test_a_suspended_session_waits_in_front_of_the_line_for_active_ones():
    async def scenario(group):
        await suspended(group, "a")
        await group.walk("b")
        client = await group.ask("c")
        steps = [asyncio.create_task(group.sessions.activate("a", 1)) for _ in range(2)]
        await settle()
        assert client[-1].position == 2 and not any(step.done() for step in steps)
        group.sessions.end("b", 1)
        assert await asyncio.gather(*steps) == [True, True]
        assert group.states() == {"a": "active"} and client[-1].position == 1

    run(scenario, num_bytes=1, suspend_after_s=10)


def test_a_session_whose_client_is_away_again_lets_others_go_first():
    async def scenario(group):
        await suspended(group, "a")
        await group.walk("b")
        client = await group.ask("c")
        step = asyncio.create_task(group.sessions.activate("a", 1))
        await settle()
        assert client[-1].position == 2
        for _ in range(2):
            group.sessions.pause("a", 1)
        await settle()
        assert client[-1].position == 1 and len(group.sessions.line) == 1
        for _ in range(2):
            group.sessions.unpause("a", 1)
        await settle()
        assert client[-1].position == 2 and len(group.sessions.line) == 2
        group.sessions.pause("a", 1)
        group.sessions.end("b", 1)
        await settle()
        assert client[-1] == 1 and not step.done()  # it has the place
        group.sessions.unpause("a", 1)
        group.sessions.end("c", 1)
        assert await step is True
        group.sessions.unpause("a", 1)  # it does not wait
        assert group.states() == {"a": "active"} and len(group.sessions.line) == 0

    run(scenario, num_bytes=1, suspend_after_s=10)


def test_one_that_has_stepped_aside_does_not_fill_the_line():
    async def scenario(group):
        await suspended(group, "a")
        await group.walk("b")
        step = asyncio.create_task(group.sessions.activate("a", 1))
        await settle()
        group.sessions.pause("a", 1)
        group.sessions.end("b", 1)
        assert (await group.ask("c"))[-1] == 1  # at once, although nobody may wait
        group.sessions.end("a", 1)
        assert await step is False

    run(scenario, num_bytes=1, suspend_after_s=10, max_waiting=0)


def test_a_suspended_session_that_ends_while_it_waits_for_memory_leaves_nothing():
    async def scenario(group):
        await suspended(group, "a")
        await group.walk("b")
        step = asyncio.create_task(group.sessions.activate("a", 1))
        await settle()
        group.sessions.end("a", 1)
        assert await step is False
        assert len(group.sessions.line) == 0 and group.released == ["a"]

    run(scenario, num_bytes=1, suspend_after_s=10)


def test_nothing_is_suspended_where_that_frees_no_memory():
    async def scenario(group):
        await paused(group, "a")
        group.now += 100
        group.sessions.suspender.suspend_paused()
        await settle()
        assert group.states() == {"a": "paused"} and group.suspending == {}

    run(scenario, num_bytes=1, suspend_after_s=10, suspends=False)
