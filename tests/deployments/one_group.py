"""One group's sessions, without a worker and without a cluster, in a test's own time."""

import asyncio
from contextlib import aclosing

from deployments.group_sessions import GroupSessions
from deployments.sessions.admission import Admission, Demand, GroupLimits
from deployments.sessions.lease_reply import Leased

SIZE = (16, 16)
WALK = Demand(width=16, height=16)
CLIP = Demand(width=16, height=16, realtime=False)
STAYS = Demand(width=16, height=16, resumable=True)


class Group:
    """A group of which a test plays the worker: a session of WALK's size takes a byte."""

    def __init__(
        self, *, num_bytes=None, hold_s=60.0, keep_s=60.0, suspends=True, grace_s=10.0, **limits
    ):
        self.released, self.suspending, self.now = [], {}, 100.0
        self.working = {}  # by session: an event that is set when no call works on it any more
        admission = Admission(GroupLimits(**limits), media_s=1.0, session_bytes=num_bytes)
        self.sessions = GroupSessions(
            admission,
            ttl_s=30,
            grace_s=grace_s,
            bytes_of=lambda demand: demand.width // 16,
            release=self.released.append,
            suspend=self.suspend if suspends else None,
            finish_calls=self.finish_calls,
            group_id="one",
            hold_s=hold_s,
            keep_s=keep_s,
            clock=lambda: self.now,
        )
        self.calls, self.leases = {}, {}  # by call, by session

    def suspend(self, session_id):
        self.suspending[session_id] = asyncio.get_running_loop().create_future()
        return self.suspending[session_id]

    async def finish_calls(self, session_id):
        if session_id in self.working:
            await self.working[session_id].wait()

    async def ask(self, call_id, demand=WALK):
        """The replies of a lease call so far; more come. A lease is its number."""
        replies = []

        async def read():
            async with aclosing(self.sessions.lease(call_id, demand)) as answers:
                async for reply in answers:
                    if isinstance(reply, Leased):
                        self.leases[reply.session_id] = reply
                        reply = reply.epoch
                    replies.append(reply)

        self.calls[call_id] = asyncio.create_task(read())
        await settle()
        return replies

    async def walk(self, session_id, demand=WALK):
        """A session whose world is open. Returns the replies of its lease call."""
        replies = await self.ask(session_id, demand)
        assert replies == [1]
        assert self.sessions.mark_opened(session_id)
        return replies

    async def attach(self, call_id, session_id):
        """The replies of a lease call for a session that had a lease."""
        return await self.ask(call_id, self.demand_for(session_id))

    def demand_for(self, session_id):
        secret = self.leases[session_id].secret
        return Demand(width=16, height=16, resumable=True, resume=(session_id, secret))

    def states(self):
        return {status.session_id: status.state for status in self.sessions.sessions()}


async def settle():
    for _ in range(20):
        await asyncio.sleep(0)


def run(scenario, **options):
    async def run_in_loop():
        group = Group(**options)
        await asyncio.wait_for(scenario(group), 60)
        for call in group.calls.values():
            call.cancel()

    asyncio.run(run_in_loop())
