"""One place between whoever makes chunks and whoever sends them, so that none grows stale."""

from collections.abc import Awaitable
from dataclasses import dataclass, field, replace

import anyio

from transport.codecs.payload import Frames
from transport.wire.controls import ChunkControls


@dataclass(slots=True, frozen=True, kw_only=True)
class GeneratedChunk:
    """Generated but for its frames."""

    index: int
    frames: Awaitable[Frames]
    num_frames: int
    position: int  # of its first frame in the world
    controls: ChunkControls
    event_id: int | None
    waited_s: float  # for its turn
    prepared_s: float
    denoising_s: float

    def after(self, dropped: "GeneratedChunk") -> "GeneratedChunk":
        """What the dropped one would have told of its controls goes with this one."""
        mine, its = self.controls, dropped.controls
        event_ids = list(dict.fromkeys([*its.event_ids, *mine.event_ids]))
        has_new_keys = its.has_new_keys or mine.has_new_keys
        return replace(self, controls=replace(mine, event_ids=event_ids, has_new_keys=has_new_keys))


@dataclass(slots=True, kw_only=True)
class ChunkSlot:
    """Of `latest` chunks a newer one takes the place of the one that lies there."""

    latest: bool = False
    num_dropped_frames: int = 0
    _chunk: GeneratedChunk | None = None
    _closed: bool = False
    _changed: anyio.Event = field(default_factory=anyio.Event)

    async def put(self, chunk: GeneratedChunk) -> None:
        """Waits until the chunk is taken; not so if only the latest are wanted."""
        if self._chunk is not None:
            self.num_dropped_frames += self._chunk.num_frames
            chunk = chunk.after(self._chunk)
        self._chunk = chunk
        self._notify()
        while self._chunk is chunk and not self.latest:
            await self._changed.wait()

    async def wait(self) -> bool:
        """Until a chunk lies there; False if there will be no more."""
        while self._chunk is None and not self._closed:
            await self._changed.wait()
        return self._chunk is not None

    def take(self) -> GeneratedChunk:
        """The chunk that lies there."""
        assert self._chunk is not None
        chunk, self._chunk = self._chunk, None
        self._notify()
        return chunk

    def close(self) -> None:
        """There will be no more; the one that lies there can still be taken."""
        self._closed = True
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
