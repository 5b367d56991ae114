"""The waiting line of clients that have asked for a world."""

from dataclasses import dataclass

from transport.wire.messages import Queued, Starting


@dataclass(slots=True, eq=False)
class WaitingClient:
    """A client's place in the line and its running clock."""

    since: float  # start of the clock
    was_ready: bool = False  # the clock is the queue clock


class WaitingLine:
    """Clients in the order of their arrival, each with two clocks, one after the other.

    The warm-up clock runs until the group is ready. Then the queue clock starts at zero. Every
    `now` is in seconds, of one monotonic clock.
    """

    def __init__(self, *, queue_timeout_s: float, warm_up_timeout_s: float) -> None:
        self._queue_timeout_s = queue_timeout_s
        self._warm_up_timeout_s = warm_up_timeout_s
        self._clients: list[WaitingClient] = []

    def __len__(self) -> int:
        return len(self._clients)

    def join(self, now: float) -> WaitingClient:
        """Add a client at the end of the line."""
        client = WaitingClient(now)
        self._clients.append(client)
        return client

    def leave(self, client: WaitingClient) -> None:
        """Remove a client that got a world, gave up or disconnected."""
        self._clients.remove(client)

    def status(self, client: WaitingClient, *, ready: bool, now: float) -> Queued | Starting:
        """The message for a waiting client. `ready`: a replica group is up.

        The first call with `ready` starts the client's queue clock.
        """
        if ready and not client.was_ready:
            client.since, client.was_ready = now, True
        return Queued(self._clients.index(client) + 1, all_taken=True) if ready else Starting()

    def give_up_reason(self, client: WaitingClient, *, ready: bool, now: float) -> str | None:
        """Why the client must give up now, or None if it may go on waiting."""
        timeout_s = self._queue_timeout_s if ready else self._warm_up_timeout_s
        if now - client.since <= timeout_s:
            return None
        cause = "every world is taken" if ready else "the world is still warming up"
        return f"{cause}; gave up after {timeout_s:g} s"
