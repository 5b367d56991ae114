"""Leases, waits and suspensions of one group, without a worker and without a cluster."""

import asyncio
import random
from contextlib import aclosing

import pytest
from msgspec.structs import replace

from deployments.group_sessions import GroupSessions
from deployments.sessions.admission import Admission, Demand, GroupLimits
from deployments.sessions.lease_reply import AskAgain, Full, Waiting

SIZE = (16, 16)
WALK = Demand(width=16, height=16)
CLIP = Demand(width=16, height=16, realtime=False)


class Group:
    """A group of which a test plays the worker: a session of WALK's size takes a byte."""

    def __init__(self, *, num_bytes=None, hold_s=60.0, suspends=True, **limits):
        self.released, self.suspending, self.now = [], {}, 100.0
        admission = Admission(GroupLimits(**limits), media_s=1.0, session_bytes=num_bytes)
        self.sessions = GroupSessions(
            admission,
            ttl_s=30,
            bytes_of=lambda demand: demand.width // 16,
            release=self.released.append,
            suspend=self.suspend if suspends else None,
            group_id="one",
            hold_s=hold_s,
            clock=lambda: self.now,
        )
        self.calls = {}

    def suspend(self, session_id):
        self.suspending[session_id] = asyncio.get_running_loop().create_future()
        return self.suspending[session_id]

    async def ask(self, session_id, demand=WALK):
        """The replies of a lease call so far; more come."""
        replies = []

        async def read():
            async with aclosing(self.sessions.lease(session_id, demand)) as answers:
                async for reply in answers:
                    replies.append(reply)

        self.calls[session_id] = asyncio.create_task(read())
        await settle()
        return replies

    async def walk(self, session_id, demand=WALK):
        """A session whose world is open."""
        assert (await self.ask(session_id, demand)) == [None]
        assert self.sessions.mark_opened(session_id)

    def states(self):
        return {status.session_id: status.state for status in self.sessions.sessions()}


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def run(scenario, **options):
    async def run_in_loop():
        group = Group(**options)
        await asyncio.wait_for(scenario(group), 5)
        for call in group.calls.values():
            call.cancel()

    asyncio.run(run_in_loop())


def test_a_lease_lasts_until_its_session_ends():
    async def scenario(group):
        await group.walk("a")
        assert group.states() == {"a": "active"} and not group.calls["a"].done()
        group.sessions.end("a")
        await group.calls["a"]
        assert group.released == ["a"] and group.states() == {}
        assert group.sessions.registry.ends == {"closed": 1}
        group.sessions.end("a")

    run(scenario)


def test_the_second_walker_waits_for_the_first_where_the_speed_is_one_sessions():
    async def scenario(group):
        group.sessions.measure(SIZE, 0.6)
        await group.walk("a")
        second, third = await group.ask("b"), await group.ask("c")
        assert (second, third) == ([Waiting(1)], [Waiting(2)])
        group.sessions.end("a")
        await settle()
        assert second == [Waiting(1), None] and third[:2] == [Waiting(2), Waiting(1, 0)]

    run(scenario)


def test_a_shared_group_admits_as_many_as_its_memory_holds():
    async def scenario(group):
        group.sessions.measure(SIZE, 0.6)
        assert [(await group.ask(name))[0] for name in "abc"] == [None, None, Waiting(1)]

    run(scenario, pace="shared", num_bytes=2)


def test_a_group_that_turns_out_to_be_faster_admits_those_who_wait():
    async def scenario(group):
        group.sessions.measure(SIZE, 0.6)
        await group.walk("a")
        replies = await group.ask("b")
        for _ in range(16):
            group.sessions.measure(SIZE, 0.4)
        await settle()
        assert replies[-1] is None

    run(scenario)


def test_a_clip_passes_those_who_wait_for_speed_and_not_those_who_wait_for_memory():
    async def scenario(group):
        group.sessions.measure(SIZE, 0.6)
        await group.walk("a")
        assert (await group.ask("b"))[-1] == Waiting(1)
        assert (await group.ask("clip", CLIP))[-1] is None
        assert (await group.ask("c"))[-1] == Waiting(2)  # memory is taken, too
        late = await group.ask("late", CLIP)
        assert late[-1] == Waiting(3)
        group.sessions.end("a")  # "b" takes its place and its memory
        await settle()
        assert late[-1] == Waiting(2, 0)

    run(scenario, num_bytes=2)


def test_a_paused_session_frees_its_speed_and_its_next_step_takes_it_again():
    async def scenario(group):
        group.sessions.measure(SIZE, 0.6)
        await group.walk("a")
        second = await group.ask("b")
        group.sessions.pause("a")
        await settle()
        assert second[-1] is None and group.states() == {"a": "paused", "b": "opening"}
        assert await group.sessions.activate("a")
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
        assert replies[0] == Waiting(1) and replies[-1] == AskAgain("one")
        await group.calls["b"]
        assert len(group.sessions.line) == 0

    run(scenario, max_sessions=1, hold_s=0.04)


def test_a_client_that_asks_again_keeps_its_place_and_is_never_turned_away():
    async def scenario(group):
        await group.walk("a")
        assert (await group.ask("new"))[-1] == Waiting(1)
        assert await group.ask("newer") == [Full("every world is taken, and 1 clients wait", 10)]
        again = Demand(width=16, height=16, waited_s=5.0)
        assert (await group.ask("older", again))[-1] == Waiting(1)
        assert group.sessions.line.position("new") == 2

    run(scenario, max_sessions=1, max_waiting=1)


def test_twenty_clients_that_leave_the_line_make_room_for_the_next_at_once():
    async def scenario(group):
        await group.walk("a")
        for number in range(20):
            assert (await group.ask(f"left {number}"))[-1] == Waiting(number + 1)
        last = await group.ask("last")
        assert last[-1] == Waiting(21)
        for number in range(20):
            group.sessions.end(f"left {number}")
        await settle()
        assert last[-1] == Waiting(1)
        group.sessions.end("a")
        await settle()
        assert last[-1] is None
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


def test_new_limits_admit_those_who_wait_and_cut_nobody():
    async def scenario(group):
        await group.walk("a")
        second, third = await group.ask("b"), await group.ask("c")
        group.sessions.set_limits(GroupLimits(max_sessions=2, max_waiting=1))
        await settle()
        assert second[-1] is None and third[-1].position == 1
        assert isinstance((await group.ask("d"))[-1], Full)
        group.sessions.set_limits(GroupLimits(max_sessions=1))
        await settle()
        assert group.states() == {"a": "active", "b": "opening"}

    run(scenario, max_sessions=1)


def test_a_session_that_is_not_touched_ends_and_makes_room():
    async def scenario(group):
        await group.walk("forgotten")
        second = await group.ask("b")
        group.sessions.expire_idle(group.now + 31)
        await settle()
        assert group.released == ["forgotten"] and second[-1] is None
        assert group.sessions.registry.ends == {"expired": 1}

    run(scenario, max_sessions=1)


def test_a_session_tells_how_it_fares():
    async def scenario(group):
        await group.walk("a")
        group.now += 7
        assert await group.sessions.activate("a")
        (status,) = group.sessions.sessions()
        assert (status.session_id, status.state, status.width, status.height) == (
            "a",
            "active",
            *SIZE,
        )
        assert (status.seconds, status.num_chunks, status.num_bytes) == (7, 1, 1)
        assert not await group.sessions.activate("unknown")

    run(scenario)


# ---- suspension


async def paused(group, session_id):
    await group.walk(session_id)
    group.sessions.pause(session_id)
    group.now += 1


def test_a_session_that_is_paused_for_long_is_suspended_and_makes_room():
    async def scenario(group):
        await paused(group, "a")
        second = await group.ask("b")
        assert second[-1] == Waiting(1)
        group.sessions.suspend_paused()
        assert group.suspending == {}  # not yet
        group.now += 10
        group.sessions.suspend_paused()
        group.sessions.suspend_paused()  # it is being suspended
        await settle()
        assert list(group.suspending) == ["a"] and second[-1] == Waiting(1)
        group.suspending["a"].set_result(True)
        await settle()
        assert second[-1] is None and group.states()["a"] == "suspended"

    run(scenario, num_bytes=1, suspend_after_s=10)


@pytest.mark.parametrize("outcome", [False, RuntimeError("oh")])
def test_a_session_that_cannot_be_suspended_stays_paused_and_is_tried_later(outcome, caplog):
    async def scenario(group):
        await paused(group, "a")
        group.now += 10
        group.sessions.suspend_paused()
        await settle()
        future = group.suspending.pop("a")
        if outcome is False:
            future.set_result(False)
        else:
            future.set_exception(outcome)
        await settle()
        group.sessions.suspend_paused()
        assert group.states() == {"a": "paused"} and group.suspending == {}
        group.now += 10
        group.sessions.suspend_paused()
        await settle()
        assert list(group.suspending) == ["a"]

    run(scenario, suspend_after_s=10)
    assert ("could not be suspended" in caplog.text) == (outcome is not False)


def test_a_step_that_comes_during_a_suspension_wins():
    async def scenario(group):
        await paused(group, "a")
        group.now += 10
        group.sessions.suspend_paused()
        await settle()
        assert await group.sessions.activate("a")
        group.suspending["a"].set_result(True)
        await settle()
        assert group.states() == {"a": "active"}

    run(scenario, suspend_after_s=10)


async def suspended(group, session_id):
    await paused(group, session_id)
    group.now += 10
    group.sessions.suspend_paused()
    await settle()
    group.suspending.pop(session_id).set_result(True)
    await settle()
    assert group.states()[session_id] == "suspended"


def test_a_suspended_session_goes_on_at_once_where_there_is_room():
    async def scenario(group):
        await suspended(group, "a")
        assert await group.sessions.activate("a")
        assert group.states() == {"a": "active"}

    run(scenario, num_bytes=1, suspend_after_s=10)


def test_a_session_that_keeps_its_memory_is_not_asked_for_it_again_at_once():
    async def scenario(group):
        await suspended(group, "a")
        await group.walk("b")
        group.sessions.pause("b")
        step = asyncio.create_task(group.sessions.activate("a"))
        await settle()
        group.suspending.pop("b").set_result(False)
        await settle()
        assert group.suspending == {} and not step.done()
        group.now += 10
        group.sessions.suspend_paused()
        await settle()
        group.suspending["b"].set_result(True)
        assert await step

    run(scenario, num_bytes=1, suspend_after_s=10, suspended_bytes=2)


@pytest.mark.parametrize("leave", ["end", "cancel"])
def test_a_client_that_leaves_the_line_makes_way_for_one_that_needs_less(leave):
    async def scenario(group):
        await group.walk("a")
        large = await group.ask("large", replace(WALK, width=32))
        small = await group.ask("small")
        assert (large, small) == ([Waiting(1)], [Waiting(2)])
        if leave == "end":
            group.sessions.end("large")
        else:
            group.calls["large"].cancel()
        await settle()
        assert small[-1] is None

    run(scenario, num_bytes=2)


def test_a_suspended_session_takes_the_memory_of_one_that_is_paused():
    async def scenario(group):
        await suspended(group, "a")
        await paused(group, "b")
        step = asyncio.create_task(group.sessions.activate("a"))
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
        steps = [asyncio.create_task(group.sessions.activate("a")) for _ in range(2)]
        await settle()
        assert client[-1].position == 2 and not any(step.done() for step in steps)
        group.sessions.end("b")
        assert await asyncio.gather(*steps) == [True, True]
        assert group.states() == {"a": "active"} and client[-1].position == 1

    run(scenario, num_bytes=1, suspend_after_s=10)


def test_a_suspended_session_that_ends_while_it_waits_for_memory_leaves_nothing():
    async def scenario(group):
        await suspended(group, "a")
        await group.walk("b")
        step = asyncio.create_task(group.sessions.activate("a"))
        await settle()
        group.sessions.end("a")
        assert await step is False
        assert len(group.sessions.line) == 0 and group.released == ["a"]

    run(scenario, num_bytes=1, suspend_after_s=10)


def test_nothing_is_suspended_where_that_frees_no_memory():
    async def scenario(group):
        await paused(group, "a")
        group.now += 100
        group.sessions.suspend_paused()
        await settle()
        assert group.states() == {"a": "paused"} and group.suspending == {}

    run(scenario, num_bytes=1, suspend_after_s=10, suspends=False)


class Crowd:
    """Clients of a group that do anything at any time."""

    def __init__(self, group, seed):
        self.group, self.sessions, self.steps = group, group.sessions, []
        self.chance = random.Random(seed)
        self.names = [str(number) for number in range(12)]

    async def act(self):
        acts = [self.ask, self.ask, self.ask, self.cancel, self.sessions.end]
        acts += [self.sessions.pause, self.step, self.wait, self.suspend]
        pending = self.chance.choice(acts)(self.chance.choice(self.names))
        if pending is not None:
            await pending

    async def ask(self, name):
        if name not in self.group.calls or self.group.calls[name].done():
            large = replace(WALK, width=32)
            demand = self.chance.choice([WALK, CLIP, large, large])
            await self.group.ask(name, demand)
            self.sessions.mark_opened(name)

    def cancel(self, name):
        if name in self.group.calls:
            self.group.calls[name].cancel()
            self.sessions.end(name)  # as WorldGroup does then

    def step(self, name):
        if self.sessions.is_live(name):
            self.steps.append(asyncio.create_task(self.sessions.activate(name)))

    def wait(self, name):
        self.group.now += self.chance.choice([1, 1, 1, 1, 10, 31])
        self.sessions.expire_idle(self.group.now)
        self.sessions.suspend_paused()

    def suspend(self, name):
        if future := self.group.suspending.pop(name, None):
            future.set_result(self.chance.random() < 0.7)

    async def leave(self):
        for name in self.names:
            self.sessions.end(name)
        for future in self.group.suspending.values():
            future.set_exception(RuntimeError("the session has ended"))
        await settle()


def check_group(sessions):
    waiting = {place.client_id for place in sessions.line._places}
    assert waiting == set(sessions._waiting)
    assert {record.session_id for record in sessions.registry} == set(sessions._ended)
    assert len(sessions.admission) == len(sessions.registry)
    first = sessions._waiting.get(sessions.line.first)
    assert first is None or first.demand is None or sessions._refusal(first.demand)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_clients_do_nothing_is_left_and_nobody_waits_for_a_free_place(seed):
    async def scenario(group):
        crowd, sessions = Crowd(group, seed), group.sessions
        for _ in range(150):
            await crowd.act()
            if crowd.chance.random() < 0.5:
                await settle()
                check_group(sessions)
        await crowd.leave()
        assert (len(sessions.line), sessions._waiting, sessions._suspending) == (0, {}, {})
        assert (len(sessions.admission), len(sessions.registry), sessions._ended) == (0, 0, {})
        assert all(task.done() for task in [*crowd.steps, *group.calls.values()])

    run(scenario, num_bytes=3, max_sessions=5, suspend_after_s=10, suspended_bytes=3)
