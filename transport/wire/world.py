"""The interface of a world. `transport` declares it, and `deployments` implements it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from transport.wire.messages import Moved, Queued, Starting, WarningMessage

if TYPE_CHECKING:  # numpy is not needed at run time, and this folder does not import it
    import numpy as np
    from numpy.typing import NDArray

Size = tuple[int, int]  # width, height
OnWait = Callable[[Queued | Starting], Awaitable[None]]


class Opening(Struct, frozen=True, kw_only=True):
    """A first frame and its prompt, shipped with the model."""

    name: str
    prompt: str
    image: bytes  # PNG or JPEG


class SessionMemory(Struct, frozen=True, kw_only=True):
    """Bytes that one world of this size takes on the rank that decodes."""

    width: int
    height: int
    kv_bytes: int  # the KV window
    prompt_bytes: int
    vae_bytes: int  # the decoder's state
    image_bytes: int
    num_fitting: int | None  # how many such worlds fit at once; null: unknown


class WorldMemory(Struct, frozen=True, kw_only=True):
    """Bytes that a replica group's rank needs, as planned at its start."""

    weight_bytes: int
    vae_bytes: int
    camera_cache_bytes: int
    activation_bytes: int
    reserved_bytes: int
    free_bytes: int | None  # before the weights were loaded; null: unknown
    sessions: tuple[SessionMemory, ...]  # one of each size


class WorldInfo(Struct, frozen=True, kw_only=True):
    """The served preset. It is known before the world is warm."""

    preset: str
    sizes: tuple[Size, ...]  # empty: any multiple up to max_pixels
    size_multiple: int
    max_pixels: int
    fps: int  # of the media
    chunk_latent_frames: int
    first_chunk_frames: int
    chunk_frames: int
    max_window: int  # latent frames of the KV window; also the default
    sink: int  # latent frames of the default sink
    max_steps: int
    openings: tuple[Opening, ...]  # the first is used if `init` has no first_frame
    encodes_prompts: bool = False  # a new prompt needs `WorldSession.encode` before its step
    resume_grace_s: float = 0.0  # a world waits so long for another socket; 0: it does not

    def nearest_size(self, width: int, height: int) -> Size:
        """The served (width, height) closest in area and in aspect."""
        if not self.sizes:
            return self._fit(width, height)

        def distance(size: Size) -> float:
            across, down = math.log(size[0] / width), math.log(size[1] / height)
            return abs(across + down) + abs(across - down)

        return min(self.sizes, key=distance)

    def _fit(self, width: int, height: int) -> Size:
        scale = min(1.0, math.sqrt(self.max_pixels / (width * height)))
        across = max(1, round(width * scale / self.size_multiple))
        down = max(1, round(height * scale / self.size_multiple))
        max_tiles = self.max_pixels // self.size_multiple**2
        if across * down > max_tiles:  # rounded up, or a sliver was widened to one tile
            across, down = (
                (max_tiles // down, down) if across > down else (across, max_tiles // across)
            )
        return across * self.size_multiple, down * self.size_multiple


class WorldSpec(Struct, frozen=True, kw_only=True):
    """One world to open. None leaves a choice to the preset."""

    prompt: str
    seed: int
    width: int
    height: int
    num_steps: int | None = None  # denoising steps
    window: int | None = None  # latent frames of the KV window
    sink: int | None = None  # latent frames of the sink
    realtime: bool = True  # False: a clip, which may take longer than it plays
    resumable: bool = False  # the world waits for another socket when its own is lost


class SavedWorld(Struct, frozen=True, kw_only=True):
    """A snapshot that has been checked against the served world."""

    width: int
    height: int
    seed: int
    prompt: str  # the newest
    chunk_index: int  # of its next chunk
    num_steps: int | None
    window: int
    sink: int
    world: Any  # the decoded snapshot; `transport` only carries it along


class WorldSession(Protocol):
    """One open world. Its calls may raise WorldLost or Refused."""

    @property
    def id(self) -> str: ...

    @property
    def age_s(self) -> float:
        """Seconds since the session was opened first; other sockets may have had it before."""
        ...

    @property
    def chunk_index(self) -> int:
        """The index of the next chunk in its world: that of the next `step`."""
        ...

    @property
    def earliest_chunk(self) -> int:
        """The first index to which `rewind` can turn the world back."""
        ...

    @property
    def resume_token(self) -> str | None:
        """What `World.resume` takes; None unless the spec is `resumable`."""
        ...

    @property
    def last_frame(self) -> NDArray[np.uint8] | None:
        """What a world that goes on showed last, uint8 [H, W, 3]; None for a new world."""
        ...

    async def step(
        self, actions: Sequence[str], *, prompt: str | None, time_to_underrun_s: float
    ) -> Awaitable[NDArray[np.uint8]]:
        """Returns when the next chunk has been denoised. Await the result for its decoded frames.

        The frames are uint8 [T, H, W, 3], contiguous. Not awaiting them is allowed, and the chunk
        after it may be requested before they are decoded.
        `actions`: the keys held in each of the chunk's latent frames, in the order "wasdijkl".
        `prompt`: the new prompt from this chunk on, or None for no change.
        `time_to_underrun_s`: seconds until the client has no frames left to show. The session with
        the earliest deadline goes first.
        """
        ...

    async def encode(self, prompt: str) -> None:
        """Returns when a step may have this prompt. It may take minutes.

        Steps meanwhile have no prompt, and the world keeps its old one. Called for one prompt at a
        time, and only if `WorldInfo.encodes_prompts`. Raises a TransportError for a prompt that
        cannot be encoded, which leaves the world as it was.
        """
        ...

    async def save(self) -> bytes:
        """Returns a snapshot of the world after its last step.

        No step may run meanwhile; all chunks so far must have been awaited or dropped, here and in
        the next three methods. Raises Refused for a world that is too large for an `init`.
        """
        ...

    async def fork(self) -> tuple[str, int]:
        """Returns a token for `World.read_fork`, and the seconds for which it is kept."""
        ...

    async def rewind(self, chunk_index: int) -> None:
        """Turns the world back, so that its next step generates this chunk anew.

        Raises Refused for an index out of `earliest_chunk` to `chunk_index`.
        """
        ...

    async def reset(self, *, seed: int, prompt: str | None) -> None:
        """Begins the world anew, from its first frame. None keeps the newest prompt.

        A new prompt is encoded, as by `open`. Raises Refused for one that cannot be.
        """
        ...

    def take_notices(self) -> list[WarningMessage | Moved]:
        """Returns what the client should know since the last call: a truncated prompt, a move."""
        ...

    def pause(self) -> None:
        """Frees the world's share of its group's speed until the next step. It returns at once.

        While a step waits for a place, it lets others have that place first until `unpause`.
        """
        ...

    def unpause(self) -> None:
        """Takes `pause` back while a step waits for a place. It returns at once."""
        ...

    async def lost(self) -> str:
        """Returns the reason when the world is lost. Until then it waits.

        Raises TakenOver when another socket has resumed the session.
        """
        ...

    def close(self) -> None:
        """Frees the world. Not async, so that nothing interrupts it. It may be called twice."""
        ...

    def detach(self) -> None:
        """Leaves the world to `World.resume`, in place of `close`; not `resumable`: frees it."""
        ...


class World(Protocol):
    """Opens sessions of the served preset."""

    @property
    def info(self) -> WorldInfo: ...

    async def open(
        self, spec: WorldSpec, image: NDArray[np.uint8], *, on_wait: OnWait
    ) -> WorldSession:
        """Opens a world, once there is room for it.

        `image` is the first frame, uint8 [height, width, 3]. `on_wait` receives the queue status,
        and its error ends the wait. It may be called later, too, while the world moves. Raises
        Busy, Refused, WorldLost or WorldFailed. A call that is cancelled or raises leaves nothing
        behind.
        """
        ...

    def read_snapshot(self, data: bytes) -> SavedWorld:
        """Checks a snapshot from a client. Raises Refused with the wrong field.

        The longest valid one takes a second of a CPU: call it in a worker thread.
        """
        ...

    async def open_snapshot(
        self, saved: SavedWorld, *, on_wait: OnWait, realtime: bool = True, resumable: bool = False
    ) -> WorldSession:
        """Opens the world of a snapshot, as `open` does."""
        ...

    async def read_fork(self, token: str) -> SavedWorld:
        """The world of a token from `WorldSession.fork`. Raises SessionGone."""
        ...

    async def resume(
        self, token: str, *, on_wait: OnWait, realtime: bool = True
    ) -> tuple[WorldSession, SavedWorld]:
        """The world of a session whose socket was lost, and what it is.

        A world that must be opened again is admitted as `realtime` says. One that waits in its
        place stays what it was.

        Ends the session's hold elsewhere: an older socket of it is closed. `SavedWorld.world` may
        be None. Raises SessionGone, and what `open` raises.
        """
        ...

    async def draining(self) -> str:
        """Returns the reason when this process must hand its sockets over. Until then it waits."""
        ...

    async def memory(self) -> WorldMemory | None:
        """Returns the plan of a replica group's memory, or None while no group has answered.

        Returns soon, and raises nothing.
        """
        ...

    async def ready(self) -> bool:
        """Returns True if a world can be opened without waiting for a warm-up.

        Raises WorldFailed with the reason if no world will be opened.
        """
        ...
