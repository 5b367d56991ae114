"""A one-slot queue between generation and sending.

In `latest` mode a new chunk replaces an unsent one.
"""

import math
from collections.abc import Awaitable, Generator
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from transport.codecs.payload import Frames
from transport.wire.controls import ChunkControls


class SharedFrames:
    """The frames of a chunk, which several tasks may await. The first one fetches them."""

    def __init__(self, frames: Awaitable[Frames]) -> None:
        self._pending = frames
        self._frames: Frames | None = None
        self._lock = anyio.Lock()

    def __await__(self) -> Generator[Any, Any, Frames]:
        return self._fetch().__await__()

    async def _fetch(self) -> Frames:
        async with self._lock:
            if self._frames is None:
                self._frames = await self._pending
        return self._frames


@dataclass(slots=True, frozen=True, kw_only=True)
class GeneratedChunk:
    """A chunk that has been denoised. Its decoded frames are awaited."""

    index: int  # on the wire
    frames: Awaitable[Frames]
    num_frames: int
    position: int  # frames of the world before this chunk
    controls: ChunkControls
    begun_s: float  # when its turn had come, on the event loop's clock
    waited_s: float  # for the media clock or an ack
    prepared_s: float  # from the end of the wait to the call of the world
    denoising_s: float
    resumed_s: float = -math.inf  # when the last pause before this chunk ended
    stall_s: float = 0.0  # see `Pacer`
    world_index: int = 0  # in the world, which may be turned back

    def after(self, dropped: "GeneratedChunk") -> "GeneratedChunk":
        """Carries over the dropped chunk's event ids, new-keys flag and time of its keys."""
        newer, older = self.controls, dropped.controls
        controls = replace(
            newer,
            event_ids=list(dict.fromkeys([*older.event_ids, *newer.event_ids])),
            has_new_keys=older.has_new_keys or newer.has_new_keys,
            event_s=newer.event_s if older.event_s is None else older.event_s,
            is_new_course=older.is_new_course or newer.is_new_course,
        )
        return replace(self, controls=controls)


@dataclass(slots=True, kw_only=True)
class ChunkSlot:
    """At most one chunk that waits. Generation puts it, and sending takes and finishes it."""

    latest: bool = False
    num_dropped_frames: int = 0
    _chunk: GeneratedChunk | None = None
    _taken: GeneratedChunk | None = None  # it is being sent
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

    def take(self) -> GeneratedChunk | None:
        """Empties the slot. Returns None if its chunk was dropped meanwhile."""
        self._taken, self._chunk = self._chunk, None
        self._notify()
        return self._taken

    def finish(self) -> None:
        """The taken chunk has been sent."""
        self._taken = None
        self._notify()

    @property
    def unsent(self) -> list[GeneratedChunk]:
        """The chunk that is being sent, and the one that waits."""
        return [chunk for chunk in (self._taken, self._chunk) if chunk is not None]

    async def drop_waiting(self) -> None:
        """Drops the chunk that waits. Returns when the one that is being sent has been sent."""
        if self._chunk is not None:
            self.num_dropped_frames += self._chunk.num_frames
            self._chunk = None
            self._notify()
        while self._taken is not None:
            await self._changed.wait()

    def close(self) -> None:
        """No more chunks will be put. An unsent one can still be taken."""
        self._closed = True
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
