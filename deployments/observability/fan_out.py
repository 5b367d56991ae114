"""One observer that passes each call on to several. An error of one is logged, and ends nothing.

Tested in `tests/deployments/observability/test_fan_out.py`.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from transport.observer import Client, Observer, SentChunk, SessionEnd, SessionObserver, State
from transport.wire.messages import Queued, Starting

T = TypeVar("T")

logger = logging.getLogger(__name__)


class FanOut:
    """An `Observer`."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def connected(self, client: Client, now_s: float) -> "SessionFanOut":
        followers: list[SessionObserver] = []
        _call_each(self._observers, lambda one: followers.append(one.connected(client, now_s)))
        return SessionFanOut(followers)

    def lagged(self, lag_s: float) -> None:
        _call_each(self._observers, lambda one: one.lagged(lag_s))


class SessionFanOut:
    """A `SessionObserver`."""

    def __init__(self, observers: Sequence[SessionObserver]) -> None:
        self._observers = observers

    def asked(self, now_s: float) -> None:
        _call_each(self._observers, lambda one: one.asked(now_s))

    def waits(self, status: Queued | Starting) -> None:
        _call_each(self._observers, lambda one: one.waits(status))

    def opened(self, now_s: float, session_id: str, *, width: int, height: int) -> None:
        _call_each(
            self._observers, lambda one: one.opened(now_s, session_id, width=width, height=height)
        )

    def moved(self, state: State) -> None:
        _call_each(self._observers, lambda one: one.moved(state))

    def sent(self, chunk: SentChunk) -> None:
        _call_each(self._observers, lambda one: one.sent(chunk))

    def closed(self, now_s: float, end: SessionEnd) -> None:
        _call_each(self._observers, lambda one: one.closed(now_s, end))


def _call_each(observers: Sequence[T], call: Callable[[T], object]) -> None:
    for one in observers:
        try:
            call(one)
        except Exception:  # a metric or a trace must not end a session
            logger.exception("%s failed", type(one).__name__)
