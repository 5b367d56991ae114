"""The work that goes on in each session. Tested in `tests/deployments/test_hand_over.py`."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class SessionWork:
    """Work that goes on when its caller has gone, and for which the session's next lease waits."""

    def __init__(self) -> None:
        self._running: dict[str, set[asyncio.Task[Any]]] = {}

    def start(self, session_id: str, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run this. An error that nobody awaits is not logged."""
        task = asyncio.create_task(work)
        running = self._running.setdefault(session_id, set())
        running.add(task)

        def forget(done: "asyncio.Task[T]") -> None:
            done.cancelled() or done.exception()
            running.discard(task)
            if not running and self._running.get(session_id) is running:
                del self._running[session_id]

        task.add_done_callback(forget)
        return task

    async def finish(self, session_id: str) -> None:
        """Returns when nothing works on the session's world."""
        while running := self._running.get(session_id):
            await asyncio.wait(running)
