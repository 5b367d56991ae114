"""Counts of each token: sessions and clips at once, and opens in a minute."""

import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal, Protocol

from transport.access_config import TokenLimits
from transport.tokens import Token
from transport.wire.errors import RETRY_AFTER_S, Busy

Kind = Literal["session", "clip"]

MINUTE_S = 60.0


class UsageCounts:
    """The counts of all tokens, by their names. Every `now` is in seconds of one clock."""

    def __init__(self) -> None:
        self._held: Counter[tuple[str, Kind]] = Counter()
        self._opens: dict[str, deque[float]] = {}  # times of a minute; the last to open is last

    def __len__(self) -> int:
        """Names about which something is known."""
        return len({name for name, _ in self._held} | self._opens.keys())

    def begin(self, name: str, kind: Kind, limits: TokenLimits, *, now: float) -> None:
        """Count one more. Raises Busy if a limit is reached; then nothing is counted."""
        most = limits.max_sessions if kind == "session" else limits.max_clips
        if self._held[name, kind] >= most:
            text = f"this token may have {most} {kind}s at once"
            raise Busy(text, retry_after_s=RETRY_AFTER_S if most else None)
        self._forget(now - MINUTE_S)
        opens = self._opens.get(name, deque())
        while opens and opens[0] <= now - MINUTE_S:
            opens.popleft()
        if len(opens) >= limits.opens_per_minute:
            wait_s = math.ceil(opens[0] + MINUTE_S - now) if opens else None
            text = f"this token may open {limits.opens_per_minute} sessions and clips a minute"
            raise Busy(text, retry_after_s=wait_s)
        self._opens.pop(name, None)
        self._opens[name] = opens
        opens.append(now)
        self._held[name, kind] += 1

    def resume(self, name: str, kind: Kind) -> None:
        """Count one that began before, perhaps under another counter. It is never refused."""
        self._held[name, kind] += 1

    def end(self, name: str, kind: Kind) -> None:
        """Count one less."""
        self._held[name, kind] -= 1
        if self._held[name, kind] <= 0:
            del self._held[name, kind]

    def _forget(self, before: float) -> None:
        """Drop the names whose last open is older, so that many names take no memory."""
        for name in list(self._opens):
            if self._opens[name][-1] > before:
                return
            del self._opens[name]


class Usage(Protocol):
    """Counts what tokens use."""

    def hold(self, token: Token, kind: Kind) -> AbstractAsyncContextManager[None]:
        """Counts one session or clip while the context is open. Entering it raises Busy."""
        ...


class LocalUsage:
    """Counts in this process alone."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._counts = UsageCounts()
        self._now = now

    @asynccontextmanager
    async def hold(self, token: Token, kind: Kind) -> AsyncIterator[None]:
        self._counts.begin(token.name, kind, token.limits, now=self._now())
        try:
            yield
        finally:
            self._counts.end(token.name, kind)
