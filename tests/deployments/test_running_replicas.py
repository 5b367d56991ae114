"""The running replicas, as Serve's routers note them in a thread of theirs."""

import asyncio
import threading

from deployments.running_replicas import MAX_LEFT, RunningReplicas

GROUPS, TRANSPORTS = ("lingbot", "WorldGroup"), ("lingbot", "Transport")


def update_in_thread(running, deployment, *replicas):
    thread = threading.Thread(target=running.update, args=[deployment, frozenset(replicas)])
    thread.start()
    thread.join()


def follow_for(changes, *, stop_after=None):
    """What a follower hears of these changes, each from another thread."""
    running, heard = RunningReplicas(), []

    async def scenario():
        update_in_thread(running, GROUPS, *changes[0])
        stop = running.follow(GROUPS, lambda replicas: heard.append("".join(sorted(replicas))))
        for number, replicas in enumerate(changes[1:]):
            if number == stop_after:
                stop()
            update_in_thread(running, GROUPS, *replicas)
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)

    asyncio.run(scenario())
    return heard


def test_a_follower_hears_what_is_known_and_then_every_change_once():
    assert follow_for(["ab", "ab", "b", "b", ""]) == ["ab", "b", ""]


def test_a_follower_that_stops_hears_nothing_more():
    assert follow_for(["a", "ab", "b"], stop_after=1) == ["a", "ab"]


def test_nothing_is_known_before_serve_has_pushed_it():
    running = RunningReplicas()
    assert running.get(GROUPS) is None
    running.update(GROUPS, frozenset())
    assert running.get(GROUPS) == frozenset() and running.get(TRANSPORTS) is None


def test_a_follower_whose_loop_is_closed_hinders_nobody():
    running = RunningReplicas()

    async def scenario():
        running.follow(GROUPS, lambda replicas: None)

    asyncio.run(scenario())
    running.update(GROUPS, frozenset("a"))
    assert running.get(GROUPS) == frozenset("a")


def test_a_replica_drains_once_it_has_run_and_does_not_run_any_more():
    running = RunningReplicas()

    async def scenario():
        waiting = asyncio.create_task(running.wait_left(TRANSPORTS, "me"))
        for replicas in ("", "other"):  # it starts
            running.update(TRANSPORTS, frozenset([replicas]))
        running.update(GROUPS, frozenset())
        running.update(TRANSPORTS, frozenset(["me", "other"]))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        running.update(TRANSPORTS, frozenset(["other"]))
        await asyncio.wait_for(waiting, 1)
        await asyncio.wait_for(running.wait_left(TRANSPORTS, "me"), 1)  # it is known
        assert running.has_left(TRANSPORTS, "me") and not running.has_left(TRANSPORTS, "other")
        assert running._listeners[TRANSPORTS] == {}

    asyncio.run(scenario())


def test_only_the_last_replicas_that_left_are_remembered():
    running = RunningReplicas()
    for number in range(MAX_LEFT + 5):
        running.update(GROUPS, frozenset([f"{number}"]))
    assert len(running._left[GROUPS]) == MAX_LEFT
    assert not running.has_left(GROUPS, "0") and running.has_left(GROUPS, f"{MAX_LEFT + 3}")
