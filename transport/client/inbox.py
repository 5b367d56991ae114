"""What a client has received, and its caller has not taken yet."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection

from transport.client.chunk_reader import Chunk
from transport.wire.messages import Queued, SessionOpened, Starting


@dataclass(slots=True)
class Received:
    """A chunk, and the socket that awaits its ack; None: it has been sent."""

    chunk: Chunk
    unacknowledged_on: ClientConnection | None


Item = Received | Queued | Starting | SessionOpened


@dataclass(slots=True)
class Inbox:
    """A queue with an end, which is returned or raised again and again."""

    _items: deque[Item] = field(default_factory=deque)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _holds_chunks: bool = False
    _closed: bool = False
    _error: Exception | None = None

    def put(self, item: Item) -> None:
        self._items.append(item)
        self._changed.set()

    def hold_chunks(self) -> None:
        """Give no chunk out until `release_chunks`: the world may be turned back behind them."""
        self._holds_chunks = True

    def release_chunks(self) -> None:
        self._holds_chunks = False
        self._changed.set()

    def close(self, error: Exception | None) -> None:
        """No more items follow. `error`: why, or None after a normal close."""
        self._closed, self._error = True, error
        self.release_chunks()

    async def get(self) -> Item | None:
        """The oldest item; None at the end. Raises the error of `close`."""
        while not self._items or (self._holds_chunks and isinstance(self._items[0], Received)):
            if self._error is not None:
                raise self._error
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._items.popleft()

    @property
    def chunks(self) -> list[Received]:
        return [item for item in self._items if isinstance(item, Received)]

    def drop_chunks(self, start: int = 0) -> None:
        """Forget those from this index in the world on."""
        self._items = deque(
            item
            for item in self._items
            if not isinstance(item, Received) or item.chunk.world_index < start
        )
