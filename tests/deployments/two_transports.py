"""Two transports and two groups of one cluster in this process: only the network is a fake.

The sessions, leases and the store are the real ones. A group's words to a transport can be held
back, as if they came late, or not at all.
"""

import asyncio
import uuid

import msgspec
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RequestCancelledError

from deployments.config import ServiceConfig
from deployments.fork_store import ClusterForks, ForkStore
from deployments.group_sessions import GroupSessions
from deployments.rank_replies import HandedOver, Opened
from deployments.running_replicas import RunningReplicas
from deployments.sessions.admission import Admission, GroupLimits
from deployments.sessions.lease_reply import Leased
from deployments.world import ClusterWorld
from deployments.world_group import Lease
from lingbot.runtime.history import History
from lingbot.runtime.snapshot import RESUMED_CHUNKS
from tests.deployments.fakes import (
    DEPLOYMENT,
    IMAGE,
    ORIGIN,
    FakeReadiness,
    FakeStream,
    Remote,
    chunk,
)


class Rank:
    """Rank 0 of a group, whose worlds are histories."""

    def __init__(self, name):
        self.name, self.is_dead = name, False
        self.worlds, self.stepped = {}, []
        self.sessions = GroupSessions(
            Admission(GroupLimits(), media_s=1.0, session_bytes=None),
            ttl_s=60,
            grace_s=60,
            bytes_of=lambda demand: 1,
            release=lambda session_id: self.worlds.pop(session_id, None),
            finish_calls=lambda session_id: asyncio.sleep(0),
            group_id=name,
        )
        for call in ("open", "restore", "step"):
            setattr(self, call, Remote(self.stream_of(getattr(self, f"reply_to_{call}"))))
        self.hand_over = Remote(self.reply_to_hand_over)
        for call in ("end", "pause", "unpause"):
            setattr(self, call, Remote(self.answer_of(getattr(self.sessions, call))))
        self.touch = Remote(self.answer_of(lambda *args: self.sessions.touch(*args[:2])))

    def stream_of(self, replies):
        async def stream(session_id, epoch, *args):
            for reply in [None] if self.is_dead else replies(session_id, epoch, *args):
                answer = asyncio.get_running_loop().create_future()
                if self.is_dead:
                    answer.set_exception(RayError("dead"))
                else:
                    answer.set_result(reply)
                yield answer

        return stream

    def answer_of(self, call):
        def answer(*args):
            future = asyncio.get_running_loop().create_future()
            if self.is_dead:
                future.set_exception(RayError("dead"))
                future.exception()  # it may be that nobody awaits it
            else:
                future.set_result(call(*args))
            return future

        return answer

    def reply_to_open(self, session_id, epoch, spec, image, context):
        return self.enter(session_id, epoch, History(ORIGIN, prompt="", budget_bytes=2**20))

    def reply_to_restore(self, session_id, epoch, snapshot, contexts):
        return self.enter(session_id, epoch, History.of(snapshot, budget_bytes=2**20))

    def enter(self, session_id, epoch, history):
        if not self.sessions.is_held(session_id, epoch):
            return []
        self.worlds[session_id] = history
        self.sessions.mark_opened(session_id)
        return [Opened(ORIGIN)]

    def reply_to_step(self, session_id, epoch, actions, *args):
        if not self.sessions.is_held(session_id, epoch):
            return []
        world = self.worlds[session_id]
        made = chunk(world.next_chunk)
        self.stepped.append((session_id, epoch, world.next_chunk))
        world.append(made.latents, actions, None)
        return [None, made]

    async def reply_to_hand_over(self, session_id, secret, end):
        if self.is_dead:
            raise RayError("dead")
        known = self.sessions.withdraw if end else self.sessions.find
        if not known(session_id, secret):
            return None
        snapshot = self.worlds[session_id].snapshot(num_more=RESUMED_CHUNKS)
        age_s, epoch = self.sessions.age_and_epoch(session_id)
        handed = HandedOver(snapshot=snapshot, last_frame=IMAGE, age_s=age_s, epoch=epoch)
        if end:
            self.sessions.end_moved(session_id)
        return handed


class LeaseStream(FakeStream):
    """A lease call. The group's later replies wait until `heard` is set."""

    def __init__(self, rank, demand, heard):
        super().__init__()
        self.rank, self.heard, self.call_id = rank, heard, uuid.uuid4().hex
        self.reading = asyncio.create_task(self.read(demand))

    async def read(self, demand):
        async for reply in self.rank.sessions.lease(self.call_id, demand):
            if isinstance(reply, Leased):
                group = {"rank": self.rank, "group_id": self.rank.name}
                self.items.put_nowait(Lease(**group, **msgspec.structs.asdict(reply)))
            else:
                await self.heard.wait()
                self.items.put_nowait(reply)

    def cancel(self):
        self.rank.sessions.leave(self.call_id)
        self.break_off(RequestCancelledError(self.call_id))

    def break_off(self, error):
        self.reading.cancel()
        self.items.put_nowait(error)


class Transport:
    """One transport, with the groups that it knows."""

    def __init__(self, cluster, name):
        self.app_name, self.deployment_name = DEPLOYMENT
        self.cluster, self.heard, self.streams = cluster, asyncio.Event(), []
        self.heard.set()
        self.lease = Remote(self.call)
        self.running = RunningReplicas()
        self.world = ClusterWorld(
            self,
            None,
            ServiceConfig(),
            forks=ClusterForks(cluster.store, ttl_s=60),
            readiness=FakeReadiness([True]),
            notice_period_s=0.01,
            on_resume=cluster.resumes.append,
            replica=("Transport", name),
            running=self.running,
            hand_over=cluster.take,
        )
        self.know("a", "b")

    def options(self, **options):
        return self

    def know(self, *groups):
        self.running.update(DEPLOYMENT, frozenset(groups))

    def call(self, demand):
        known = sorted(self.running.get(DEPLOYMENT))
        if not known:  # Serve keeps such a call until a group runs
            raise RayActorError
        name = demand.group if demand.group in known else known[0]
        self.streams.append(LeaseStream(self.cluster.ranks[name], demand, self.heard))
        return self.streams[-1]


class Cluster:
    def __init__(self):
        self.ranks, self.resumes = {name: Rank(name) for name in "ab"}, []
        store = ForkStore(budget_bytes=2**20, ttl_s=60)
        self.stored = store._worlds
        calls = ("put_fork", "put_left", "claim", "get", "take")
        self.store = type("Handle", (), {name: Remote(getattr(store, name)) for name in calls})
        self.old, self.new = Transport(self, "old"), Transport(self, "new")

    async def take(self, application, token):
        rank = self.ranks[token.group_id]
        if rank.is_dead:
            return None
        return await rank.reply_to_hand_over(token.session_id, token.secret, True)

    def die(self, name):
        """A group dies. Its words that were held back are lost."""
        self.ranks[name].is_dead = True
        for transport in (self.old, self.new):
            transport.know(*{"a", "b"} - {name})
            for stream in transport.streams:
                if stream.rank is self.ranks[name]:
                    stream.break_off(RayError("dead"))

    def num_stored(self):
        """The worlds in the store, without the tokens that lead to newer ones."""
        return sum(not world.has_moved for world in self.stored._worlds.values())

    def live(self):
        """All sessions of groups that live, by their groups."""
        ranks = (rank for rank in self.ranks.values() if not rank.is_dead)
        return [(rank.name, one.session_id) for rank in ranks for one in rank.sessions.sessions()]


def run(scenario):
    async def run_in_loop():
        await asyncio.wait_for(scenario(Cluster()), 30)

    asyncio.run(run_in_loop())
