"""How a client takes its world up on another socket.

Tested in `tests/transport/client/test_reconnecting.py`.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from transport.client.asks import Asks
from transport.client.sent_controls import ControlEvent, SentControls
from transport.wire.errors import TransportError

Send = Callable[[str, Any, int], Awaitable[None]]  # kind, payload, id


class TakeUp:
    """Sends again what the server may not have. It serves one socket."""

    def __init__(
        self, asks: Asks, controls: SentControls, *, send: Send, new_id: Callable[[], int]
    ) -> None:
        self._asks = asks
        self._controls = controls
        self._send = send
        self._new_id = new_id
        self._sent: list[ControlEvent] = []

    async def turn_back(self, *, expected: int, resumes_at: int) -> int:
        """Turn the world back to the first chunk that did not arrive, and send the controls again.

        The world may have gone on already, so that the controls follow the turn. One that cannot be
        turned back goes on where it is. Returns the index of its next chunk.
        """
        if self._asks.turn is None and resumes_at >= expected:
            self._asks.add(self._new_id(), "rewind", {"chunk_index": expected})
        turn = self._asks.turn
        for event_id, ask in list(self._asks.pending.items()):
            await self._send(ask.kind, ask.payload, event_id)
        await self.send_controls()
        if turn is not None:
            with suppress(TransportError):
                return (await turn.answer).world_chunk_index
        return resumes_at

    async def send_controls(self) -> None:
        """Send the controls that hold now, unless these were sent."""
        controls = self._controls.rest(self._new_id())
        for kind, payload, event_id in controls if controls != self._sent else ():
            await self._send(kind, payload, event_id)
        self._sent = controls
