"""The cluster's worlds as the transport room sees them: sessions on any replica group."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakSet

from msgspec.structs import replace
from ray.serve.handle import DeploymentHandle

from deployments.config import ServiceConfig
from deployments.detached_histories import DetachedHistories
from deployments.encoded_prompt import EncodedPrompt, warn_of_truncation
from deployments.fork_store import ClusterForks
from deployments.group_memory import GroupMemory
from deployments.hand_over import take_session
from deployments.history_budget import budget_of, history_of
from deployments.lease import Context, Contexts, Frames, HeldLease
from deployments.lease_request import LeaseRequest, start_clock
from deployments.left_worlds import HandOver, LeftWorlds, TakenWorld
from deployments.observability.session_metrics import Source
from deployments.observability.session_reports import SessionReport
from deployments.place import Losses, take_place
from deployments.portable import PortableSession
from deployments.prompt_encoder import PromptEncoder, start_encoding, wait_for_prompt
from deployments.rank_replies import Opened
from deployments.readiness import Readiness
from deployments.running_replicas import RUNNING_REPLICAS, RunningReplicas
from deployments.saved_world import demand_of, describe, read_snapshot
from deployments.sessions.admission import Demand
from deployments.sessions.resume_token import ResumeToken, parse_resume_token
from deployments.sessions.wait_clock import WaitClock
from lingbot.runtime.history import History
from lingbot.runtime.snapshot import Snapshot, needed_prompts
from transport.wire.errors import SessionGone, TransportError, WorldLost
from transport.wire.messages import Queued, Starting, WarningMessage
from transport.wire.world import OnWait, SavedWorld, WorldInfo, WorldMemory, WorldSpec

Report = Callable[[str], SessionReport | None]
DRAINING = "this server process goes away"


class ClusterWorld:
    """Opens worlds on any replica group that has room."""

    def __init__(
        self,
        group: DeploymentHandle[Any],
        info: WorldInfo,
        config: ServiceConfig,
        *,
        prompts: PromptEncoder | None = None,
        forks: ClusterForks | None = None,
        readiness: Readiness | None = None,
        notice_period_s: float = 0.5,
        report: Report = lambda session_id: None,
        on_resume: Callable[[Source], None] = lambda source: None,
        replica: tuple[str, str] | None = None,
        running: RunningReplicas = RUNNING_REPLICAS,
        hand_over: HandOver | None = None,
    ) -> None:
        """A waiting client gets a message every `notice_period_s`.

        `prompts` is None where the ranks encode the prompts, `forks` where no forks are kept.
        `report` describes a session of this replica to its rank. `on_resume` counts the tokens that
        clients came with. `replica` is this process's deployment and id; None: it never drains.
        `hand_over` takes a session from a group that does not run any more.
        """
        self._memory = GroupMemory(group, ready=self.ready)
        # Through gRPC, a caller that was killed is noticed within milliseconds.
        self._group = group.options(stream=True, _by_reference=False)
        self._application = group.app_name
        self._deployment = group.app_name, group.deployment_name
        self.info = info
        self.config = config
        self.limits = config.limits  # of a client; live ones take their place
        self.notice_period_s = notice_period_s
        self._sessions: WeakSet[PortableSession] = WeakSet()
        self._closing: str | None = None
        self._prompts = prompts
        self._readiness = readiness or Readiness(group.app_name, group.deployment_name)
        self._report = report
        self._on_resume = on_resume
        self._replica = replica
        self._running = running
        self._stop_following: Callable[[], None] | None = None
        self.left = LeftWorlds(
            group.app_name, config, forks=forks, hand_over=hand_over or take_session
        )
        self.histories = DetachedHistories(ttl_s=config.resume_grace_s, num_free=self._num_free)

    # ---- for the transport room

    async def open(self, spec: WorldSpec, image: Frames, *, on_wait: OnWait) -> PortableSession:
        """The prompt is encoded while the client waits for a lease."""
        self._check_open()
        on_wait = self._while_open(on_wait)
        demand = demand_of(spec, realtime=spec.realtime, resumable=spec.resumable)
        encoding = None if self._prompts is None else start_encoding(self._prompts, spec.prompt)
        encoded: EncodedPrompt | None = None

        async def prepare() -> None:
            nonlocal encoded
            if encoding is not None:
                encoded = await wait_for_prompt(encoding, on_wait, period_s=self.notice_period_s)

        async def enter(lease: HeldLease) -> Opened:
            context = None if encoded is None else encoded.context
            return await lease.open(spec, image, context, on_wait=on_wait)

        try:
            lease, opened = await self._enter(demand, enter, on_wait, prepare=prepare)
        finally:
            if encoding is not None:
                encoding.cancel()
        budget = budget_of(opened.origin, self.config)
        history = History(opened.origin, prompt=spec.prompt, budget_bytes=budget)
        return self._track(
            PortableSession(self, lease, history, demand=demand, on_wait=on_wait, encoded=encoded)
        )

    def read_snapshot(self, data: bytes) -> SavedWorld:
        return describe(read_snapshot(data, self.config, limits=self.limits))

    async def open_snapshot(
        self, saved: SavedWorld, *, on_wait: OnWait, realtime: bool = True, resumable: bool = False
    ) -> PortableSession:
        demand = demand_of(saved, realtime=realtime, resumable=resumable)
        return await self._restore(saved.world, demand, on_wait=on_wait)

    async def read_fork(self, token: str) -> SavedWorld:
        if self.forks is None:
            raise SessionGone("this server keeps no forks", field="fork")
        data = await self.forks.get(token)
        return describe(await asyncio.to_thread(read_snapshot, data, self.config))

    async def resume(
        self, token: str, *, on_wait: OnWait, realtime: bool = True
    ) -> tuple[PortableSession, SavedWorld]:
        """Attach to the session, or take its world from a group that drains, or from the store."""
        self._check_open()
        try:
            session, source = await self._resume(token, on_wait=on_wait, realtime=realtime)
        except SessionGone:
            self._on_resume("gone")
            raise
        self._on_resume(source)
        return session, describe(session.world_now())

    async def draining(self) -> str:
        if self._replica is None:
            await asyncio.Event().wait()
        else:
            deployment, replica = self._replica
            await self._running.wait_left((self._application, deployment), replica)
        return DRAINING

    def close(self, reason: str | None) -> None:
        """End all sessions with `reason`, and open no other one. None: sessions are opened.

        A client that waits gets it instead of its next status.
        """
        self._closing = reason
        if reason is not None:
            for session in set(self._sessions):
                session.end(reason)

    async def memory(self) -> WorldMemory | None:
        return await self._memory.ask()

    async def ready(self) -> bool:
        return await self._readiness.ask()

    # ---- for sessions

    async def lease(
        self, demand: Demand, *, on_wait: OnWait, clock: WaitClock | None = None
    ) -> HeldLease:
        """A place in any group. Raises as `LeaseRequest.lease` does."""
        self._check_open()
        request = LeaseRequest(
            self._group.lease,
            demand,
            readiness=self._readiness,
            config=self.config,
            on_wait=self._while_open(on_wait),
            notice_period_s=self.notice_period_s,
            clock=clock,
        )
        lease, stream = await request.lease()
        return HeldLease(lease, stream, config=self.config)

    @property
    def forks(self) -> ClusterForks | None:
        return self.left.forks

    def running_groups(self) -> frozenset[str] | None:
        return self._running.get(self._deployment)

    def is_draining(self) -> bool:
        if self._replica is None:
            return False
        deployment, replica = self._replica
        return self._running.has_left((self._application, deployment), replica)

    async def encode(self, prompt: str) -> tuple[Context, WarningMessage | None]:
        """A prompt's context; see `PromptEncoder.encode`."""
        assert self._prompts is not None
        encoded = await self._prompts.encode(prompt)
        return encoded.context, warn_of_truncation(encoded.num_truncated, "tokens")

    async def contexts_of(self, snapshot: Snapshot, known: Contexts) -> Contexts | None:
        if self._prompts is None:
            return None
        contexts = {}
        for prompt in needed_prompts(snapshot):
            context = known.get(prompt)
            contexts[prompt] = (await self.encode(prompt))[0] if context is None else context
        return contexts

    def report(self, session_id: str) -> SessionReport | None:
        return self._report(session_id)

    async def finish(self) -> None:
        """Returns when all worlds without a place have been stored."""
        await self.left.finish()

    # ---- opening

    def _num_free(self) -> int:
        """How many more sessions may be open. Memory is planned for their histories."""
        return self.limits.max_sockets - sum(session.is_open for session in self._sessions)

    def _check_open(self) -> None:
        if self._closing is not None:
            raise WorldLost(self._closing)

    def _while_open(self, on_wait: OnWait) -> OnWait:
        """Ends the wait of a client when no world is opened any more."""

        async def wait_on(status: Queued | Starting) -> None:
            self._check_open()
            await on_wait(status)

        return wait_on

    async def _enter(
        self,
        demand: Demand,
        enter: Callable[[HeldLease], Awaitable[Opened]],
        on_wait: OnWait,
        *,
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> tuple[HeldLease, Opened]:
        """A place in which a world has been opened. A group that dies meanwhile is replaced.

        An error of `prepare`, which is awaited before, ends the tries.
        """
        losses, clock, asked = Losses(raised_at=0), start_clock(self.config), demand

        async def find() -> HeldLease:
            nonlocal asked
            lease = await self.lease(asked, on_wait=on_wait, clock=clock)
            asked = replace(demand, returning=True)
            try:
                self._check_open()
                if prepare is not None:
                    await prepare()
            except BaseException:
                lease.close()
                raise
            return lease

        def note_loss(error: TransportError) -> None:
            if self._closing is not None:
                raise error
            losses.note(error, 0)

        return await take_place(find, enter, note_loss=note_loss, pause_s=self.notice_period_s)

    async def _restore(
        self,
        snapshot: Snapshot,
        demand: Demand,
        *,
        on_wait: OnWait,
        history: History | None = None,
    ) -> PortableSession:
        """`history` is that of the snapshot's world, where it is kept."""
        self._check_open()
        on_wait = self._while_open(on_wait)
        history = history or history_of(snapshot, self.config)
        needed = history.snapshot()  # the other chunks of `snapshot` are for rewinding
        contexts = await self.contexts_of(needed, {})

        async def enter(lease: HeldLease) -> Opened:
            return await lease.restore(needed, contexts, on_wait=on_wait)

        lease, opened = await self._enter(demand, enter, on_wait)
        return self._track(
            PortableSession(
                self,
                lease,
                history,
                demand=demand,
                on_wait=on_wait,
                last_frame=opened.last_frame,
                contexts=contexts,
            )
        )

    async def _resume(
        self, token: str, *, on_wait: OnWait, realtime: bool
    ) -> tuple[PortableSession, Source]:
        named = parse_resume_token(token)
        if named is None:
            raise SessionGone("this is no token of a session", field="resume")
        while True:
            running = self.running_groups()
            is_running = running is None or named.group_id in running
            if is_running:
                session = await self._attach(named, on_wait=on_wait, realtime=realtime)
                if session is not None:
                    return session, "attached"
            taken = await self.left.take(named)
            if isinstance(taken, TakenWorld):
                break
            named = taken
        demand = demand_of(describe(taken.snapshot), realtime=realtime, resumable=True)
        demand = replace(demand, returning=True, age_s=taken.age_s)
        history = self.histories.take(str(named), taken.snapshot)
        try:
            session = await self._restore(taken.snapshot, demand, on_wait=on_wait, history=history)
        except BaseException:
            self.left.store(str(named), taken)  # the client may try again
            if history is not None:
                self.histories.keep(str(named), history)
            raise
        if session.resume_token is not None:  # the socket may be lost before its client has it
            self.left.forward(str(named), taken.claim, session.resume_token)
        return session, taken.source

    async def _attach(
        self, token: ResumeToken, *, on_wait: OnWait, realtime: bool
    ) -> PortableSession | None:
        """The session, where it is; None if it is not there any more.

        There it stays what it was admitted as. `realtime` is that of a place after it.
        """
        named = token.session_id, token.secret
        asked = Demand(width=0, height=0, resumable=True, group=token.group_id, resume=named)
        try:
            lease = await self.lease(asked, on_wait=on_wait)
        except SessionGone:
            return None
        try:
            handed = await lease.read_world()
        except BaseException:
            lease.detach()  # the client may try again
            raise
        if handed is None:  # it has ended, or its group does not answer
            lease.detach()
            return None
        self.left.claim(token, lease.epoch)
        for older in set(self._sessions):
            older.note_resumed(lease)
        history = self.histories.take(str(token), handed.snapshot)
        demand = demand_of(describe(handed.snapshot), realtime=realtime, resumable=True)
        return self._track(
            PortableSession(
                self,
                lease,
                history or history_of(handed.snapshot, self.config),
                demand=demand,
                on_wait=on_wait,
                last_frame=handed.last_frame,
            )
        )

    def _track(self, session: PortableSession) -> PortableSession:
        try:
            self._check_open()
        except WorldLost:
            session.detach()
            raise
        self._sessions.add(session)
        self.histories.make_room()
        if self._stop_following is None:
            self._stop_following = self._running.follow(self._deployment, self._note_groups)
        return session

    def _note_groups(self, running: frozenset[str]) -> None:
        for session in set(self._sessions):
            session.note_groups(running)
