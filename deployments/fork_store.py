"""The store of worlds that have no session: forks, and worlds whose socket and place were lost."""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from msgspec import Struct
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.calls import answer_of, call_detached
from deployments.observability.logs import configure_logging
from transport.wire.errors import RETRY_AFTER_S, Busy, Refused, SessionGone

ANSWER_TIMEOUT_S = 8.0  # clients give a handshake 10 s
MAX_CLAIMS = 100_000  # of resume tokens, some 200 bytes each

logger = logging.getLogger(__name__)


class LeftWorld(Struct, frozen=True, kw_only=True):
    """The world of a lost socket."""

    data: bytes  # the encoded snapshot; the newer resume token of a session that has moved
    age_s: float  # of its session
    claim: int  # the number of the lease that left it; sockets that resume later have higher ones
    has_moved: bool = False  # the world is not here; its client may not know the newer token


@dataclass(frozen=True, slots=True)
class StoredWorld:
    """A world in the store."""

    data: bytes
    since: float
    fork_of: str | None = None  # the session that forked it; None: the world of a lost socket
    age_s: float = 0.0  # of the session, when it was stored
    has_moved: bool = False  # see `LeftWorld`


class StoredWorlds:
    """Encoded snapshots by token, within a byte budget and for a time.

    The session with the most bytes of forks gives up its oldest fork first, so that a session that
    forks often pushes out its own. The worlds of lost sockets make room for each other alone. Every
    `now` is in seconds of one clock.
    """

    def __init__(self, *, budget_bytes: int, ttl_s: float) -> None:
        self._budget_bytes = budget_bytes
        self._ttl_s = ttl_s
        self._worlds: dict[str, StoredWorld] = {}  # by token; the oldest first
        self._claims: dict[str, tuple[int, float]] = {}  # of resume tokens, with their times
        self.num_bytes = 0

    def put_fork(self, token: str, data: bytes, *, session: str, now: float) -> bool:
        """False for a fork that has no room."""
        return self._put(token, StoredWorld(data, now, fork_of=session))

    def put_left(self, token: str, left: LeftWorld, *, now: float) -> bool:
        """False for a world that has no room, or that a later socket has claimed."""
        if not self.claim(token, left.claim, now=now):
            return False
        if left.has_moved and token in self._worlds and not self._worlds[token].has_moved:
            return True  # the stored world is newer: the session that this leads to has left it
        age_s, has_moved = left.age_s, left.has_moved
        return self._put(token, StoredWorld(left.data, now, age_s=age_s, has_moved=has_moved))

    def claim(self, token: str, number: int, *, now: float) -> bool:
        """Note a lease by this token. The worlds that earlier ones leave, or have left, go.

        False if a later one is known: an old socket may be the last to notice that it is lost.
        """
        known, _ = self._claims.pop(token, (0, now))
        self._claims[token] = max(known, number), now
        while len(self._claims) > MAX_CLAIMS or self._oldest_claim() < now - self._ttl_s:
            del self._claims[next(iter(self._claims))]
        if number > known and token in self._worlds:
            self._drop(token)
        return number >= known

    def get(self, token: str, *, now: float) -> bytes | None:
        """A fork. None for a token that is unknown, expired, or had to make room."""
        self._expire(now)
        world = self._worlds.get(token)
        return None if world is None or world.fork_of is None else world.data

    def take(self, token: str, *, now: float) -> LeftWorld | None:
        """The world of a lost socket, for the last time, with a claim of its own.

        The newer token of a session that has moved may be read again.
        """
        self._expire(now)
        world = self._worlds.get(token)
        if world is None or world.fork_of is not None:
            return None
        known, _ = self._claims.get(token, (0, now))
        if world.has_moved:
            return LeftWorld(data=world.data, age_s=world.age_s, claim=known, has_moved=True)
        number = known + 1
        self.claim(token, number, now=now)
        return LeftWorld(data=world.data, age_s=world.age_s + now - world.since, claim=number)

    def _put(self, token: str, world: StoredWorld) -> bool:
        self._expire(world.since)
        if token in self._worlds:
            self._drop(token)
        may_go = [one for one in self._worlds.values() if one.fork_of or not world.fork_of]
        size = len(world.data)
        if self.num_bytes + size - self._budget_bytes > sum(len(one.data) for one in may_go):
            return False
        while self.num_bytes + size > self._budget_bytes:
            self._drop(self._first_to_go(world))
        self._worlds[token] = world
        self.num_bytes += size
        return True

    def _first_to_go(self, new: StoredWorld) -> str:
        """The token of the world that makes room for a `new` one, which is not stored yet."""
        held, oldest = Counter({new.fork_of: len(new.data)}), dict[str, str]()
        for token, world in self._worlds.items():
            if world.fork_of is not None:
                held[world.fork_of] += len(world.data)
                oldest.setdefault(world.fork_of, token)
        if not oldest:
            return next(iter(self._worlds))
        return oldest[max(oldest, key=held.__getitem__)]

    def _oldest_claim(self) -> float:
        return next(iter(self._claims.values()))[1]

    def _expire(self, now: float) -> None:
        for token, world in list(self._worlds.items()):
            if now - world.since <= self._ttl_s:
                return
            self._drop(token)

    def _drop(self, token: str) -> None:
        self.num_bytes -= len(self._worlds.pop(token).data)


class ForkStore:
    """Ray Serve creates one replica. Its worlds are lost with it."""

    def __init__(
        self, *, budget_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        configure_logging()
        self._worlds = StoredWorlds(budget_bytes=budget_bytes, ttl_s=ttl_s)
        self._clock = clock

    async def put_fork(self, token: str, data: bytes, session: str) -> bool:
        """Keep a session's fork. False if the store has no room for it."""
        return self._worlds.put_fork(token, data, session=session, now=self._clock())

    async def put_left(self, token: str, left: LeftWorld) -> bool:
        """Keep the world of a lost socket. False as in `StoredWorlds`."""
        return self._worlds.put_left(token, left, now=self._clock())

    async def claim(self, token: str, number: int) -> bool:
        """Note a lease by a resume token; see `StoredWorlds.claim`."""
        return self._worlds.claim(token, number, now=self._clock())

    async def get(self, token: str) -> bytes | None:
        """A fork, or None if it is not kept any more."""
        return self._worlds.get(token, now=self._clock())

    async def take(self, token: str) -> LeftWorld | None:
        """The world of a lost socket, for the last time."""
        return self._worlds.take(token, now=self._clock())


class ClusterForks:
    """The deployment as transport replicas call it."""

    def __init__(
        self, handle: DeploymentHandle[Any], *, ttl_s: float, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        self._handle = handle
        self.timeout_s = timeout_s
        self.ttl_s = ttl_s

    async def fork(self, data: bytes, *, session: str, token: str | None = None) -> str:
        """Keep a session's fork for all. Returns its token, which is drawn where there is none.

        Raises Refused if it cannot be kept.
        """
        token = token or secrets.token_urlsafe(16)
        try:
            is_kept: bool = await self._answer(self._handle.put_fork, token, data, session)
        except (TimeoutError, RayError, RayServeException) as exc:
            logger.warning("a fork could not be stored: %r", exc)
            raise Refused("the world could not be stored, try again") from exc
        if not is_kept:
            raise Refused("the server's store of worlds has no room for this one")
        return token

    async def keep(self, token: str, left: LeftWorld) -> None:
        """Keep the world of a lost socket, if that is possible."""
        try:
            if not await self._answer(self._handle.put_left, token, left):
                logger.warning("a world is not stored: no room, or a later socket resumed it")
        except (TimeoutError, RayError, RayServeException) as exc:
            logger.warning("a world could not be stored: %r", exc)

    async def claim(self, token: str, number: int) -> None:
        """Note that a socket has resumed a session; see `StoredWorlds.claim`."""
        try:
            await self._answer(self._handle.claim, token, number)
        except (TimeoutError, RayError, RayServeException) as exc:
            logger.warning("a resumed session could not be noted: %r", exc)

    async def get(self, token: str) -> bytes:
        """A fork. Raises SessionGone for an unknown token, and Busy without an answer."""
        reading = self._answer(self._handle.get, token)
        data: bytes = await self._read(reading, field="fork")
        return data

    async def take(self, token: str) -> LeftWorld:
        """The world of a lost socket, which is opened once. Raises as `get` does.

        It waits for the answer without a limit: the store does not have that world any more.
        """
        taking = answer_of(call_detached(self._handle.take, token))
        left: LeftWorld = await self._read(taking, field="resume")
        return left

    async def _read(self, reading: Awaitable[Any], *, field: str) -> Any:
        try:
            world = await reading
        except (TimeoutError, RayError, RayServeException) as exc:
            logger.warning("a stored world could not be read: %r", exc)
            raise Busy("the store of worlds does not answer", retry_after_s=RETRY_AFTER_S) from exc
        if world is None:
            raise SessionGone("this world is not kept any more", field=field)
        return world

    async def _answer(self, method: Any, *args: Any) -> Any:
        answer = answer_of(call_detached(method, *args))
        if not (await asyncio.wait([answer], timeout=self.timeout_s))[0]:
            raise TimeoutError(f"no answer in {self.timeout_s:g} s")
        return answer.result()
