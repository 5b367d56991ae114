"""Clients and transports that do anything to one group at any time."""

import asyncio
import math
import random

import pytest
from msgspec.structs import replace

from tests.deployments.one_group import CLIP, STAYS, WALK, run, settle

NUM_CLIENTS = 12


class Crowd:
    def __init__(self, group, seed):
        self.group, self.sessions, self.steps = group, group.sessions, []
        self.chance = random.Random(seed)
        self.number = 0
        self.ids = []  # all sessions and waits so far

    async def act(self):
        acts = [self.ask, self.ask, self.ask, self.open, self.open, self.attach, self.attach]
        acts += [self.cancel, self.end, self.pause, self.step, self.step, self.wait, self.suspend]
        acts += [self.withdraw]
        live = [status.session_id for status in self.sessions.sessions()]
        names = live if live and self.chance.random() < 0.8 else self.ids[-NUM_CLIENTS:] or [""]
        pending = self.chance.choice(acts)(self.chance.choice(names))
        if pending is not None:
            await pending

    def epoch(self, name):
        """A lease's number: the last one's, or an older one's."""
        lease = self.group.leases.get(name)
        return lease.epoch - (self.chance.random() < 0.3) if lease else 1

    def next_call(self):
        self.number += 1
        return str(self.number)

    async def ask(self, _):
        large = replace(WALK, width=32)
        returning = replace(STAYS, returning=True)
        name = self.next_call()
        self.ids.append(name)
        await self.group.ask(name, self.chance.choice([WALK, CLIP, large, STAYS, STAYS, returning]))

    def open(self, name):
        self.sessions.mark_opened(name)

    async def attach(self, name):
        if name in self.group.leases:
            if self.chance.random() < 0.3:  # a call of the lease before works on
                self.group.working.setdefault(name, asyncio.Event())
            await self.group.attach(self.next_call(), name)

    def cancel(self, _):
        """A caller goes, as WorldGroup notices, perhaps late."""
        self.sessions.leave(str(self.chance.randint(self.number - 2 * NUM_CLIENTS, self.number)))

    def end(self, name):
        self.sessions.end(name, self.epoch(name))

    def pause(self, name):
        self.sessions.pause(name, self.epoch(name))

    def step(self, name):
        self.steps.append(asyncio.create_task(self.check_step(name, self.epoch(name))))

    async def check_step(self, name, epoch):
        if await self.sessions.activate(name, epoch):
            assert self.sessions.is_held(name, epoch)
            assert self.sessions.registry.get(name).epoch == epoch

    def wait(self, name):
        self.group.now += self.chance.choice([1, 1, 1, 1, 1, 1, 1, 5, 11, 31])
        self.sessions.expire_idle(self.group.now)
        self.sessions.suspender.suspend_paused()
        if event := self.group.working.pop(name, None):
            event.set()

    def suspend(self, name):
        if future := self.group.suspending.pop(name, None):
            future.set_result(self.chance.random() < 0.7)

    def withdraw(self, name):
        lease = self.group.leases.get(name)
        if lease and self.chance.random() < 0.5 and self.sessions.withdraw(name, lease.secret):
            self.sessions.end_moved(name)

    async def leave(self):
        for call in self.group.calls:
            self.sessions.leave(call)
        self.sessions.expire_idle(math.inf)
        for future in self.group.suspending.values():
            future.set_exception(RuntimeError("the session has ended"))
        for event in self.group.working.values():
            event.set()
        await settle()


def check_group(group):
    sessions = group.sessions
    waiting = {place.client_id for place in sessions.line._places}
    assert waiting == {name for name, _ in sessions.waiting.in_order()}
    assert len(sessions.admission) == len(sessions.registry)
    held = {record.session_id for record in sessions.registry if record.detached_at is None}
    assert held == set(sessions._holders)
    assert len(group.released) == len(set(group.released)) == sessions.registry.ends.total()
    first = dict(sessions.waiting.in_order()).get(sessions.line.first)
    assert first is None or sessions._refusal(first)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_clients_do_nothing_is_left_and_nobody_waits_for_a_free_place(seed):
    async def scenario(group):
        crowd, sessions = Crowd(group, seed), group.sessions
        for _ in range(400):
            await crowd.act()
            if crowd.chance.random() < 0.5:
                await settle()
                check_group(group)
        await crowd.leave()
        check_group(group)
        assert (len(sessions.line), len(sessions.waiting), sessions.suspender._running) == (
            0,
            0,
            {},
        )
        assert (len(sessions.admission), len(sessions.registry), sessions._holders) == (0, 0, {})
        assert all(task.done() for task in [*crowd.steps, *group.calls.values()])
        for step in crowd.steps:
            step.result()
        assert {"closed", "client_left", "moved"} <= sessions.registry.ends.keys()
        epochs = {lease.epoch for lease in group.leases.values()}
        assert 1 in epochs and max(epochs) > 1  # some worlds were attached again

    run(scenario, num_bytes=3, max_sessions=5, suspend_after_s=10, suspended_bytes=3)
