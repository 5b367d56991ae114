"""The store of worlds that have no session: forks, and worlds whose socket and place were lost."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.calls import answer_of, call_detached
from deployments.observability.logs import configure_logging
from transport.wire.errors import Busy, Refused, SessionGone

ANSWER_TIMEOUT_S = 8.0  # clients give a handshake 10 s

logger = logging.getLogger(__name__)


class StoredWorlds:
    """Encoded snapshots by token, within a byte budget and for a time.

    The oldest forks go first. The worlds of lost sockets make room for each other alone.
    """

    def __init__(self, *, budget_bytes: int, ttl_s: float) -> None:
        self._budget_bytes = budget_bytes
        self._ttl_s = ttl_s
        self._worlds: dict[str, tuple[bytes, float]] = {}  # the snapshot and its time, by age
        self._forks: set[str] = set()  # tokens
        self.num_bytes = 0

    def put(self, token: str, data: bytes, *, now: float, is_fork: bool = True) -> bool:
        """False for a snapshot that has no room. `now` is in seconds."""
        self.take(token, now=now)
        forks = [name for name in self._worlds if name in self._forks]
        others = [] if is_fork else [name for name in self._worlds if name not in self._forks]
        may_go = [*forks, *others]
        missing = self.num_bytes + len(data) - self._budget_bytes
        if missing > sum(len(self._worlds[name][0]) for name in may_go):
            return False
        for name in may_go:
            if self.num_bytes + len(data) <= self._budget_bytes:
                break
            self._drop(name)
        self._worlds[token] = data, now
        self.num_bytes += len(data)
        if is_fork:
            self._forks.add(token)
        return True

    def get(self, token: str, *, now: float) -> bytes | None:
        """None for a token that is unknown, expired, or had to make room."""
        self._expire(now)
        world = self._worlds.get(token)
        return None if world is None else world[0]

    def take(self, token: str, *, now: float) -> bytes | None:
        """As `get`, for the last time."""
        data = self.get(token, now=now)
        if data is not None:
            self._drop(token)
        return data

    def _expire(self, now: float) -> None:
        for token, (_, since) in list(self._worlds.items()):
            if now - since <= self._ttl_s:
                return
            self._drop(token)

    def _drop(self, token: str) -> None:
        data, _ = self._worlds.pop(token)
        self._forks.discard(token)
        self.num_bytes -= len(data)


class ForkStore:
    """Ray Serve creates one replica. Its worlds are lost with it."""

    def __init__(
        self, *, budget_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        configure_logging()
        self._worlds = StoredWorlds(budget_bytes=budget_bytes, ttl_s=ttl_s)
        self._clock = clock

    async def put(self, token: str, data: bytes, is_fork: bool = True) -> bool:
        """Keep a snapshot. False if the store has no room for it."""
        return self._worlds.put(token, data, now=self._clock(), is_fork=is_fork)

    async def get(self, token: str) -> bytes | None:
        """The snapshot, or None if it is not kept any more."""
        return self._worlds.get(token, now=self._clock())

    async def take(self, token: str) -> bytes | None:
        """As `get`, for the last time."""
        return self._worlds.take(token, now=self._clock())


class ClusterForks:
    """The deployment as transport replicas call it."""

    def __init__(
        self, handle: DeploymentHandle[Any], *, ttl_s: float, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        self._handle = handle
        self._timeout_s = timeout_s
        self.ttl_s = ttl_s

    async def put(self, data: bytes, *, token: str | None = None, is_fork: bool = True) -> str:
        """Keep a snapshot for all. Returns its token, which is drawn where there is none.

        Forks make room for the worlds of lost sockets, and never the other way round.

        Raises Refused if it cannot be kept.
        """
        token = token or secrets.token_urlsafe(16)
        try:
            is_kept: bool = await self._answer(self._handle.put, token, data, is_fork)
        except (TimeoutError, RayError, RayServeException) as exc:
            logger.warning("a world could not be stored: %r", exc)
            raise Refused("the world could not be stored, try again") from exc
        if not is_kept:
            raise Refused("the server's store of worlds has no room for this one")
        return token

    async def get(self, token: str) -> bytes:
        """The snapshot. Raises SessionGone for an unknown token, and Busy without an answer."""
        return await self._read(self._handle.get, token, field="fork")

    async def take(self, token: str) -> bytes:
        """As `get`, for the last time: a world whose socket was lost is opened once."""
        return await self._read(self._handle.take, token, field="resume")

    async def _read(self, method: Any, token: str, *, field: str) -> bytes:
        try:
            data: bytes | None = await self._answer(method, token)
        except (TimeoutError, RayError, RayServeException) as exc:
            logger.warning("a stored world could not be read: %r", exc)
            raise Busy("the store of worlds does not answer", retry_after_s=5) from exc
        if data is None:
            raise SessionGone("this world is not kept any more", field=field)
        return data

    async def _answer(self, method: Any, *args: Any) -> Any:
        answer = answer_of(call_detached(method, *args))
        if not (await asyncio.wait([answer], timeout=self._timeout_s))[0]:
            raise TimeoutError(f"no answer in {self._timeout_s:g} s")
        return answer.result()
