"""Clients and transports that do anything to one group at any time."""

import asyncio
import math
import random

import pytest
from msgspec.structs import replace

from deployments.sessions.lease_reply import AskAgain
from tests.deployments.one_group import CLIP, STAYS, WALK, run, settle

NUM_CLIENTS = 12


class Crowd:
    def __init__(self, group, seed):
        self.group, self.sessions, self.steps = group, group.sessions, []
        self.chance = random.Random(seed)
        self.number = 0
        self.ids = []  # all sessions and waits so far
        self.asked = {}  # by call: its demand, when its client asked first, the replies so far
        self.num_returned = 0
        self.admit, self.sessions._admit = self.sessions._admit, self.admit_first
        self.num_overtaken = 0

    def admit_first(self, name, demand):
        """Counts those in the line who see another one admitted before them."""
        is_admitted = self.admit(name, demand)
        self.num_overtaken += is_admitted and self.sessions.line.first not in (None, name)
        return is_admitted

    async def act(self):
        acts = [self.ask, self.ask, self.ask, self.open, self.open, self.attach, self.attach]
        acts += [self.cancel, self.end, self.pause, self.step, self.step, self.wait, self.suspend]
        acts += [self.withdraw, self.come_back, self.come_back]
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
        demand = self.chance.choice([WALK, CLIP, large, STAYS, STAYS, returning])
        await self.call(demand, asked=self.group.now)

    async def call(self, demand, *, asked):
        name = self.next_call()
        self.ids.append(name)
        self.asked[name] = demand, asked, await self.group.ask(name, demand)

    def kept(self):
        """The clients that must ask again and have not, by the place that is kept."""
        return {
            replies[-1].place: name
            for name, (_, _, replies) in self.asked.items()
            if replies and isinstance(replies[-1], AskAgain)
        }

    async def come_back(self, _):
        """A client that must ask again does so."""
        if kept := self.kept():
            place = self.chance.choice(list(kept))
            demand, asked, _ = self.asked.pop(kept[place])
            self.num_returned += 1
            again = replace(demand, waited_s=self.group.now - asked, place=place)
            await self.call(again, asked=asked)

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

    def give_up_places(self):
        """The time is over for which places are kept: their clients went elsewhere."""
        for place, name in self.kept().items():
            del self.asked[name]
            self.sessions.leave(place)

    def wait(self, name):
        self.give_up_places()
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
        self.give_up_places()
        self.sessions.expire_idle(math.inf)
        for future in self.group.suspending.values():
            future.set_exception(RuntimeError("the session has ended"))
        for event in self.group.working.values():
            event.set()
        await settle()


def check_group(crowd):
    group, sessions = crowd.group, crowd.sessions
    waiting = {entry.client_id for entry in sessions.line._entries}
    assert waiting == {name for name, _ in sessions.waiting.in_order()}
    assert len(sessions.admission) == len(sessions.registry)
    held = {record.session_id for record in sessions.registry if record.detached_at is None}
    assert held == set(sessions._holders)
    assert len(group.released) == len(set(group.released)) == sessions.registry.ends.total()
    first = dict(sessions.waiting.in_order()).get(sessions.line.first)
    kept = {name for name in waiting if sessions.waiting.is_kept(name)}
    assert first is None or sessions._refusal(first) or sessions.line.first in kept
    assert kept == crowd.kept().keys() and crowd.num_overtaken == 0


@pytest.mark.parametrize("seed", range(8))
def test_whatever_clients_do_nothing_is_left_and_nobody_waits_for_a_free_place(seed):
    async def scenario(group):
        crowd, sessions = Crowd(group, seed), group.sessions
        for _ in range(480):
            await crowd.act()
            if crowd.chance.random() < 0.5:
                await settle()
                check_group(crowd)
        assert crowd.num_returned > 0
        await crowd.leave()
        check_group(crowd)
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

    run(scenario, num_bytes=3, max_sessions=5, suspend_after_s=10, suspended_bytes=3, hold_s=10)
