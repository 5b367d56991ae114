"""A one-slot queue between generation and sending.

In `latest` mode a new chunk replaces an unsent one.
"""

from collections.abc import Awaitable
from dataclasses import dataclass, field, replace

import anyio

from transport.codecs.payload import Frames
from transport.wire.controls import ChunkControls


@dataclass(slots=True, frozen=True, kw_only=True)
class GeneratedChunk:
    """A chunk that has been denoised. Its decoded frames are awaited."""

    index: int
    frames: Awaitable[Frames]
    num_frames: int
    position: int  # frames of the world before this chunk
    controls: ChunkControls
    begun_s: float  # when its turn had come, on the event loop's clock
    waited_s: float  # for the media clock or an ack
    prepared_s: float  # from the end of the wait to the call of the world
    denoising_s: float
    stall_s: float = 0.0  # see `Pacer`

    def after(self, dropped: "GeneratedChunk") -> "GeneratedChunk":
        """Carries over the dropped chunk's event ids, new-keys flag and time of its keys."""
        newer, older = self.controls, dropped.controls
        controls = replace(
            newer,
            event_ids=list(dict.fromkeys([*older.event_ids, *newer.event_ids])),
            has_new_keys=older.has_new_keys or newer.has_new_keys,
            event_s=newer.event_s if older.event_s is None else older.event_s,
        )
        return replace(self, controls=controls)


@dataclass(slots=True, kw_only=True)
class ChunkSlot:
    """At most one unsent chunk. Generation puts it, and sending takes it."""

    latest: bool = False
    num_dropped_frames: int = 0
    _chunk: GeneratedChunk | None = None
    _closed: bool = False
    _changed: anyio.Event = field(default_factory=anyio.Event)

    async def put(self, chunk: GeneratedChunk) -> None:
        """Waits until the chunk is taken. In `latest` mode it replaces the unsent one instead."""
        if self._chunk is not None:
            self.num_dropped_frames += self._chunk.num_frames
            chunk = chunk.after(self._chunk)
        self._chunk = chunk
        self._notify()
        while self._chunk is chunk and not self.latest:
            await self._changed.wait()

    async def wait(self) -> bool:
        """Waits for a chunk. Returns False if there will be no more."""
        while self._chunk is None and not self._closed:
            await self._changed.wait()
        return self._chunk is not None

    def take(self) -> GeneratedChunk:
        """Empties the slot, which must hold a chunk."""
        assert self._chunk is not None
        chunk, self._chunk = self._chunk, None
        self._notify()
        return chunk

    def close(self) -> None:
        """No more chunks will be put. An unsent one can still be taken."""
        self._closed = True
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
