"""The worlds of lost sockets that wait in no running group: taken by their tokens, and stored.

Tested in `tests/deployments/test_resuming.py`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, TypeVar

from msgspec import Struct

from deployments.config import ServiceConfig
from deployments.fork_store import ClusterForks, LeftWorld
from deployments.hand_over import finish_taking
from deployments.rank_replies import HandedOver
from deployments.saved_world import read_snapshot
from deployments.sessions.resume_token import ResumeToken, parse_resume_token
from lingbot.runtime.snapshot import Snapshot, encode_snapshot
from transport.wire.errors import RETRY_AFTER_S, Busy, SessionGone

# Takes a session of an application from its group, where it ends
HandOver = Callable[[str, ResumeToken], Awaitable[HandedOver | None]]

MARGIN_S = 10.0  # beside the step of the session that may have to end first

T = TypeVar("T")

logger = logging.getLogger(__name__)


class TakenWorld(Struct, frozen=True, kw_only=True):
    """A world that was taken from its only place."""

    snapshot: Snapshot
    age_s: float  # of its session
    claim: int  # see `LeftWorld`
    source: Literal["handed_over", "stored"] = "stored"


class LeftWorlds:
    """Takes and stores them for one process."""

    def __init__(
        self,
        application: str,
        config: ServiceConfig,
        *,
        forks: ClusterForks | None,
        hand_over: HandOver,
    ) -> None:
        """`forks` is None where no worlds are stored."""
        self.forks = forks
        self.hand_over = hand_over
        self._application = application
        self._config = config
        self._calls: set[asyncio.Task[Any]] = set()

    async def take(self, token: ResumeToken) -> TakenWorld | ResumeToken:
        """The world of a session that no running group has, or the newer token of one that moved.

        The world is stored for another try if it comes after the caller has left, or after Busy
        was raised. Also raises SessionGone.
        """
        timeout_s = self._config.step_timeout_s + MARGIN_S
        taken = await self._finish(self._take_from_group(token), token, timeout_s=timeout_s)
        if taken is not None:
            return taken
        if self.forks is None:
            raise SessionGone("this session is gone", field="resume")
        taking = self._take_from_store(self.forks, token)
        return await self._finish(taking, token, timeout_s=self.forks.timeout_s)

    def store(self, token: str, world: TakenWorld) -> None:
        """Keep a world in the background, for `take`."""
        if self.forks is not None:
            self._follow(self._store(self.forks, token, world))

    def forward(self, token: str, number: int, to: str) -> None:
        """Note in the background that a session of this token and lease goes on as `to`.

        A client whose socket is lost may not have received the newer token.
        """
        if self.forks is not None:
            moved = LeftWorld(data=to.encode(), age_s=0.0, claim=number, has_moved=True)
            self._follow(self.forks.keep(token, moved))

    def claim(self, token: ResumeToken, number: int) -> None:
        """Note in the background that a lease of this number has the session.

        The process of an older lease may not know yet that its socket is lost. Its world in
        the store would be a second copy.
        """
        if self.forks is not None:
            self._follow(self.forks.claim(str(token), number))

    async def finish(self) -> None:
        """Returns when all worlds have been stored."""
        while self._calls:
            await asyncio.wait(self._calls)

    def _follow(self, call: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    async def _finish(
        self, taking: Coroutine[Any, Any, T], token: ResumeToken, *, timeout_s: float
    ) -> T:
        def leave(taken: T) -> None:
            if isinstance(taken, TakenWorld):
                logger.info("session %s is stored: its client did not wait", token.session_id)
                self.store(str(token), taken)

        try:
            return await finish_taking(self._follow(taking), leave, timeout_s=timeout_s)
        except TimeoutError as exc:
            logger.warning("session %s could not be taken: %s", token.session_id, exc)
            raise Busy("the session's place does not answer", retry_after_s=RETRY_AFTER_S) from exc

    async def _take_from_group(self, token: ResumeToken) -> TakenWorld | None:
        handed = await self.hand_over(self._application, token)
        if handed is None:
            return None
        self.claim(token, handed.epoch)
        logger.info("session %s taken from its group", token.session_id)
        return TakenWorld(
            snapshot=handed.snapshot, age_s=handed.age_s, claim=handed.epoch, source="handed_over"
        )

    async def _take_from_store(
        self, forks: ClusterForks, token: ResumeToken
    ) -> TakenWorld | ResumeToken:
        left = await forks.take(str(token))
        if left.has_moved and (newer := parse_resume_token(left.data.decode())) is not None:
            return newer
        logger.info("session %s taken from the store", token.session_id)
        snapshot = await asyncio.to_thread(read_snapshot, left.data, self._config)
        return TakenWorld(snapshot=snapshot, age_s=left.age_s, claim=left.claim)

    async def _store(self, forks: ClusterForks, token: str, world: TakenWorld) -> None:
        data = await asyncio.to_thread(encode_snapshot, world.snapshot)
        await forks.keep(token, LeftWorld(data=data, age_s=world.age_s, claim=world.claim))
