"""A chunk on its way from a rank. Tested in `tests/deployments/test_portable.py`."""

import asyncio
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from deployments.lease import Context, Frames
from deployments.rank_replies import Chunk
from transport.wire.errors import TransportError


@dataclass(slots=True, eq=False)
class PendingChunk:
    """A chunk whose latents have not arrived yet. It is repeated if its group is lost."""

    actions: Sequence[str]
    prompt: str | None
    context: Context | None  # of the prompt, if this process encodes prompts
    time_to_underrun_s: float
    denoised: asyncio.Future[None] = field(default_factory=asyncio.Future)
    frames: asyncio.Future[Frames] = field(default_factory=asyncio.Future)
    result: Chunk | None = None

    def __await__(self) -> Generator[Any, Any, Frames]:
        return asyncio.shield(self.frames).__await__()

    def note_denoised(self) -> None:
        if not self.denoised.done():
            self.denoised.set_result(None)

    def fail(self, error: TransportError) -> None:
        for future in (self.denoised, self.frames):
            if not future.done():
                future.set_exception(error)
                future.exception()  # it may be that nobody awaits it
