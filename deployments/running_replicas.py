"""Which replicas of a deployment run, as Serve's controller pushes it to the routers.

Serve does not call a replica's code when its drain begins. But the replica leaves this set at once,
long before it ends. Sessions of such a group move, and such a transport hands its sockets over.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress

MAX_LEFT = 1024  # replicas of a deployment that are remembered after they left

Deployment = tuple[str, str]  # the names of its application and its own
OnChange = Callable[[frozenset[str]], None]


class RunningReplicas:
    """The ids of running replicas by deployment, for all routers of a process.

    Routers run in an event loop of their own, so that any thread may call this.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Deployment, frozenset[str]] = {}
        self._left: dict[Deployment, dict[str, None]] = {}  # the last ones, by age
        self._listeners: dict[Deployment, dict[object, Callable[[frozenset[str]], None]]] = {}

    def get(self, deployment: Deployment) -> frozenset[str] | None:
        """None until Serve has pushed the deployment's replicas for the first time."""
        return self._running.get(deployment)

    def update(self, deployment: Deployment, replicas: frozenset[str]) -> None:
        """Note the running replicas. Several routers of a deployment may push the same ones."""
        with self._lock:
            before = self._running.get(deployment, frozenset())
            if self._running.get(deployment) == replicas:
                return
            self._running[deployment] = replicas
            left = self._left.setdefault(deployment, {})
            left.update(dict.fromkeys(sorted(before - replicas)))
            for replica in list(left)[:-MAX_LEFT]:
                del left[replica]
            for listener in self._listeners.get(deployment, {}).values():
                listener(replicas)

    def follow(self, deployment: Deployment, on_change: OnChange) -> Callable[[], None]:
        """Call `on_change` in the caller's event loop for each change, and once for what is known.

        Returns what ends this.
        """
        loop, key = asyncio.get_running_loop(), object()

        def notify(replicas: frozenset[str]) -> None:
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(on_change, replicas)

        with self._lock:
            self._listeners.setdefault(deployment, {})[key] = notify
            if (replicas := self._running.get(deployment)) is not None:
                notify(replicas)

        def stop() -> None:
            with self._lock:
                self._listeners[deployment].pop(key, None)

        return stop

    def has_left(self, deployment: Deployment, replica: str) -> bool:
        """True if this replica has run and does not run any more.

        A replica is forgotten after `MAX_LEFT` others have left: it has ended long before.
        """
        with self._lock:
            running = self._running.get(deployment, frozenset())
            return replica in self._left.get(deployment, ()) and replica not in running

    async def wait_left(self, deployment: Deployment, replica: str) -> None:
        """Returns when `has_left` is true."""
        changed = asyncio.Event()
        stop = self.follow(deployment, lambda replicas: changed.set())
        try:
            while not self.has_left(deployment, replica):
                await changed.wait()
                changed.clear()
        finally:
            stop()


RUNNING_REPLICAS = RunningReplicas()  # routers are created by Serve, and have no other way out
