"""Sessions of one group that lose their lease, and get another one."""

import asyncio

import pytest
from msgspec.structs import replace

from deployments.sessions.lease_reply import Ended, Leased, NotHere, Waiting
from tests.deployments.one_group import SIZE, STAYS, WALK, run, settle

TAKEN_OVER = Ended("taken_over")


async def detached(group, session_id):
    await group.walk(session_id, STAYS)
    group.sessions.leave(session_id)
    await group.calls[session_id]
    assert group.states()[session_id] == "detached"


def test_a_session_whose_call_ends_waits_for_another_one():
    async def scenario(group):
        await detached(group, "a")
        assert await group.attach("second", "a") == [2]
        assert group.leases["a"] == Leased(
            session_id="a", epoch=2, secret=group.leases["a"].secret, attached=True
        )
        assert group.states() == {"a": "paused"}
        assert await group.sessions.activate("a", 2)
        assert group.states() == {"a": "active"} and group.released == []

    run(scenario)


def test_secrets_are_of_128_random_bits():
    async def scenario(group):
        for name in ("a", "b"):
            await group.walk(name)
        secrets = {lease.secret for lease in group.leases.values()}
        assert len(secrets) == 2 and {len(secret) for secret in secrets} == {22}

    run(scenario)


def test_no_call_works_on_a_detached_session():
    async def scenario(group):
        await detached(group, "a")
        assert not await group.sessions.activate("a", 1)
        assert not await group.sessions.claim_memory("a", 1)
        group.sessions.pause("a", 1)
        group.sessions.touch("a", 1)
        assert group.states() == {"a": "detached"}

    run(scenario)


def test_a_detached_session_frees_its_speed_and_keeps_its_memory():
    async def scenario(group):
        group.sessions.measure(SIZE, 0.6)
        await group.walk("a", STAYS)
        second, third = await group.ask("b"), await group.ask("c")
        group.sessions.leave("a")
        await settle()
        assert second[-1] == 1 and third[-1].position == 1
        group.sessions.expire_idle(group.now + 10.5)
        await settle()
        assert group.sessions.admission.num_bytes == 1 and third[-1].position == 1

    run(scenario, num_bytes=2, paused_share=1)


def test_a_detached_session_that_nobody_resumes_ends():
    async def scenario(group):
        await detached(group, "a")
        group.sessions.expire_idle(group.now + 10)
        assert group.released == []
        group.sessions.expire_idle(group.now + 10.5)
        assert group.released == ["a"] and group.sessions.registry.ends == {"not_resumed": 1}
        assert await group.attach("late", "a") == [NotHere("one")]

    run(scenario)


@pytest.mark.parametrize("resume", [("a", "wrong"), ("b", "secret"), ("", "")])
def test_whoever_does_not_know_the_secret_gets_nothing(resume):
    async def scenario(group):
        await group.walk("a", STAYS)
        assert await group.ask("x", replace(STAYS, resume=resume)) == [NotHere("one")]
        await group.calls["x"]
        assert group.states() == {"a": "active"} and not group.calls["a"].done()

    run(scenario)


def test_another_call_takes_a_session_over():
    async def scenario(group):
        first = await group.walk("a", STAYS)
        assert await group.attach("second", "a") == [2]
        assert first == [1, TAKEN_OVER] and group.calls["a"].done()
        assert not await group.sessions.activate("a", 1)
        assert await group.sessions.activate("a", 2)

    run(scenario)


def test_the_late_end_of_a_call_that_was_taken_over_changes_nothing():
    """The group learns of a killed transport when its client has come back through another one."""

    async def scenario(group):
        await group.walk("a", STAYS)
        await group.attach("second", "a")
        group.sessions.leave("a")
        group.sessions.end("a", 1)
        group.sessions.pause("a", 1)
        assert group.states() == {"a": "active"} and group.released == []
        group.sessions.end("a", 2)
        assert group.released == ["a"] and group.sessions.registry.ends == {"closed": 1}

    run(scenario)


def test_the_end_that_arrives_behind_the_end_of_its_call_ends_the_session():
    async def scenario(group):
        await detached(group, "a")
        group.sessions.end("a", 1)
        assert group.released == ["a"] and group.sessions.registry.ends == {"closed": 1}

    run(scenario)


def test_an_attached_session_stays_what_it_was_admitted_as():
    async def scenario(group):
        group.sessions.measure(SIZE, 0.6)
        await group.walk("a", replace(STAYS, realtime=False))
        group.sessions.leave("a")
        await group.attach("second", "a")
        assert await group.sessions.activate("a", 2)
        assert group.sessions.is_clip("a") and group.sessions.admission.load == 0

    run(scenario)


def test_an_attached_session_outlives_the_grace():
    async def scenario(group):
        await detached(group, "a")
        group.now += 10.5
        await group.attach("second", "a")  # just before somebody looks
        group.sessions.expire_idle(group.now)
        assert group.states() == {"a": "paused"}

    run(scenario)


def test_a_lease_begins_when_the_calls_of_the_one_before_have_ended():
    async def scenario(group):
        first = await group.walk("a", STAYS)
        group.working["a"] = asyncio.Event()
        second = await group.attach("second", "a")
        assert (first, second) == ([1, TAKEN_OVER], [])
        group.sessions.expire_idle(group.now + 11)  # it is no longer detached
        group.working["a"].set()
        await settle()
        assert second == [2]

    run(scenario)


def test_of_two_calls_that_attach_at_once_the_last_one_holds_the_session():
    async def scenario(group):
        await detached(group, "a")
        group.working["a"] = asyncio.Event()
        second, third = await group.attach("second", "a"), await group.attach("third", "a")
        group.working["a"].set()
        await settle()
        assert (second, third) == ([TAKEN_OVER], [3])
        group.sessions.leave("second")
        assert group.sessions.is_held("a", 3)

    run(scenario)


@pytest.mark.parametrize("end", ["leave", "end"])
def test_a_call_that_ends_while_it_attaches_gets_no_lease(end):
    async def scenario(group):
        await detached(group, "a")
        group.working["a"] = asyncio.Event()
        second = await group.attach("second", "a")
        if end == "leave":
            group.sessions.leave("second")
        else:
            group.sessions.end("a", 2)
        group.working["a"].set()
        await group.calls["second"]
        assert second == []
        assert group.states() == ({"a": "detached"} if end == "leave" else {})

    run(scenario)


def test_a_lease_that_is_not_touched_detaches_its_session():
    async def scenario(group):
        replies = await group.walk("a", STAYS)
        group.now += 31
        group.sessions.expire_idle(group.now)
        await settle()
        assert replies == [1, Ended("detached")] and group.states() == {"a": "detached"}
        registry = group.sessions.registry
        assert registry.num_expired == 1 and not registry.ends
        group.sessions.expire_idle(group.now + 11)
        assert registry.ends == {"not_resumed": 1} and registry.num_expired == 1

    run(scenario)


def test_a_session_without_a_world_ends_with_its_call():
    async def scenario(group):
        await group.ask("a", STAYS)
        group.sessions.leave("a")
        assert group.released == ["a"] and group.sessions.registry.ends == {"client_left": 1}

    run(scenario)


def test_without_a_grace_a_session_ends_with_its_call():
    async def scenario(group):
        await group.walk("a", STAYS)
        group.sessions.leave("a")
        assert group.released == ["a"] and group.sessions.registry.ends == {"closed": 1}

    run(scenario, grace_s=0)


# ---- sessions that are handed over


@pytest.mark.parametrize("demand", [WALK, STAYS], ids=["not resumable", "resumable"])
@pytest.mark.parametrize("grace_s", [0, 10])
def test_a_session_that_is_handed_over_leaves_its_call(demand, grace_s):
    async def scenario(group):
        replies = await group.walk("a", demand)
        secret = group.leases["a"].secret
        assert group.sessions.find("a", secret) and not group.sessions.find("a", "wrong")
        assert group.sessions.withdraw("a", secret)
        await settle()
        assert replies == [1, TAKEN_OVER] and group.released == []
        group.sessions.end("a", 1)  # by the transport that had it
        group.sessions.leave("a")
        group.sessions.expire_idle(group.now + 1000)
        assert not group.sessions.withdraw("a", secret)
        assert await group.attach("b", "a") == [NotHere("one")]
        assert group.states() == {"a": "detached"}
        group.sessions.end_moved("a")
        group.sessions.end_moved("a")
        assert group.released == ["a"] and group.sessions.registry.ends == {"moved": 1}

    run(scenario, grace_s=grace_s)


def test_a_session_that_is_handed_over_makes_room():
    async def scenario(group):
        await group.walk("a")
        second = await group.ask("b")
        group.sessions.withdraw("a", group.leases["a"].secret)
        await settle()
        assert second == [Waiting(1)]
        group.sessions.end_moved("a")
        await settle()
        assert second == [Waiting(1), 1]

    run(scenario, num_bytes=1)


# ---- suspended sessions


async def suspended(group, session_id, demand=STAYS):
    await group.walk(session_id, demand)
    group.sessions.pause(session_id, 1)
    group.now += 10
    group.sessions.suspender.suspend_paused()
    await settle()
    group.suspending.pop(session_id).set_result(True)
    await settle()
    assert group.states()[session_id] == "suspended"


def test_a_detached_session_that_was_suspended_stays_so_until_its_next_step():
    async def scenario(group):
        await suspended(group, "a")
        group.sessions.leave("a")
        assert group.states() == {"a": "detached"}
        assert group.sessions.admission.suspended_bytes == 1
        assert await group.attach("second", "a") == [2]
        assert group.states() == {"a": "suspended"}
        assert await group.sessions.activate("a", 2)

    run(scenario, suspend_after_s=10)


def test_a_step_that_waits_for_memory_ends_with_its_lease():
    async def scenario(group):
        await suspended(group, "a")
        await group.walk("b")
        step = asyncio.create_task(group.sessions.activate("a", 1))
        await settle()
        client = await group.ask("c")
        assert client == [Waiting(2)]
        await group.attach("second", "a")
        assert await step is False and group.sessions.line.position("c") == 1
        later = asyncio.create_task(group.sessions.activate("a", 2))
        await settle()
        assert client[-1].position == 2
        group.sessions.end("b", 1)
        assert await later and group.states() == {"a": "active"}

    run(scenario, num_bytes=1, suspend_after_s=10)


def test_a_new_world_for_a_suspended_session_claims_its_memory_and_no_speed():
    async def scenario(group):
        await suspended(group, "a")
        assert await group.sessions.claim_memory("a", 1)
        assert group.states() == {"a": "paused"}
        assert group.sessions.admission.num_bytes == 1

    run(scenario, num_bytes=1, suspend_after_s=10)


def test_the_session_that_was_detached_longest_ends_for_one_that_needs_its_memory():
    async def scenario(group):
        await detached(group, "b")
        group.now += 1
        await detached(group, "a")
        assert await group.ask("c") == [1]
        assert group.released == ["b"] and group.sessions.registry.ends == {"evicted": 1}
        assert await group.attach("late", "b") == [NotHere("one")]
        assert await group.attach("second", "a") == [2]

    run(scenario, num_bytes=2)


def test_a_client_in_the_line_gets_the_memory_of_a_session_that_is_detached_meanwhile():
    async def scenario(group):
        await group.walk("a", STAYS)
        waiting = await group.ask("b")
        assert isinstance(waiting[-1], Waiting)
        group.sessions.leave("a")
        await settle()
        assert waiting[-1] == 1 and group.released == ["a"]

    run(scenario, num_bytes=1)


@pytest.mark.parametrize(
    ("width", "limits"), [(48, {"num_bytes": 2}), (16, {"max_sessions": 2, "num_bytes": 0})]
)
def test_no_detached_session_ends_for_a_client_that_does_not_fit_even_so(width, limits):
    async def scenario(group):
        group.sessions._bytes_of = lambda demand: demand.width // 16 if width > 16 else 0
        group.sessions.measure(SIZE, 0.6)
        group.sessions.measure((width, 16), 0.6)
        await detached(group, "a")
        if width == 16:
            await group.walk("b")
        replies = await group.ask("c", replace(WALK, width=width))
        assert isinstance(replies[-1], Waiting) and group.released == []

    run(scenario, **limits)


def test_a_session_whose_world_is_handed_over_is_not_evicted():
    async def scenario(group):
        await group.walk("a", STAYS)
        assert group.sessions.withdraw("a", group.leases["a"].secret)
        replies = await group.ask("b")
        assert isinstance(replies[-1], Waiting) and group.released == []

    run(scenario, num_bytes=1)


def test_a_lease_knows_how_long_its_session_has_been_open_in_all_groups():
    async def scenario(group):
        await group.walk("a", replace(STAYS, age_s=7.0))
        assert group.leases["a"].age_s == 7
        group.now += 5
        await group.attach("second", "a")
        assert group.leases["a"].age_s == 12

    run(scenario)
