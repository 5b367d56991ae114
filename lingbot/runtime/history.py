"""The past of one world, chunk by chunk, within a bound of bytes. Imports no torch."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from lingbot.runtime.snapshot import Origin, Snapshot


class History:
    """Keeps the latents of the sink, and of the latest chunks; all actions and prompts."""

    def __init__(self, origin: Origin, *, prompt: str, budget_bytes: int) -> None:
        """`budget_bytes` bounds the latents. A snapshot of the newest chunk is always possible."""
        raise NotImplementedError

    @classmethod
    def of(cls, snapshot: Snapshot, *, budget_bytes: int) -> "History":
        """The history of a world that goes on from a snapshot."""
        raise NotImplementedError

    @property
    def next_chunk(self) -> int:
        raise NotImplementedError

    @property
    def earliest(self) -> int:
        """The first index to which the world can be turned back; the chunks from there go."""
        raise NotImplementedError

    def append(self, latents: NDArray[Any], actions: Sequence[str], prompt: str | None) -> None:
        """The next chunk. `prompt`: a new one from this chunk on, or None."""
        raise NotImplementedError

    def snapshot(self, next_chunk: int | None = None) -> Snapshot:
        """The world before this chunk; None: before the next one.

        Raises LingbotError, field `chunk_index`, for one that is not in the history.
        """
        raise NotImplementedError

    def rewind(self, next_chunk: int) -> None:
        """Forget this chunk and all later ones. Raises as `snapshot` does."""
        raise NotImplementedError
