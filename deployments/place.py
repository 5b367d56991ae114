"""A place for a world in any replica group, with bounded tries.

Tested in `tests/deployments/test_portable.py`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from deployments.lease import HeldLease
from deployments.sessions.wait_clock import WaitClock
from transport.wire.errors import Busy, TransportError, WorldFailed, WorldLost

MAX_LOSSES = 3  # of groups at one chunk: such a world may itself be what ends them

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Losses:
    """The losses of a world at one chunk. Each chunk that arrives allows as many again."""

    chunk_index: int = 0
    count: int = 0
    # The chunk at which the engine raised; None: it has not
    raised_at: int | None = None

    def note(self, error: TransportError, chunk_index: int) -> None:
        """Count a loss before this chunk has arrived. Raises the error once there are too many.

        An error that the engine raised may be the world's own fault: its second one at a chunk is
        one too many.
        """
        if chunk_index != self.chunk_index:
            self.chunk_index, self.count = chunk_index, 0
        self.count += 1
        if self.count > MAX_LOSSES or (
            isinstance(error, WorldFailed) and self.raised_at == chunk_index
        ):
            raise error
        if isinstance(error, WorldFailed):
            self.raised_at = chunk_index


async def take_place(
    find: Callable[[], Awaitable[HeldLease]],
    enter: Callable[[HeldLease], Awaitable[T]],
    *,
    note_loss: Callable[[TransportError], None],
    pause_s: float,
    place: HeldLease | None = None,
) -> tuple[HeldLease, T]:
    """Find a place and `enter` it, again if that place is lost meanwhile.

    `note_loss` raises what ends the tries. `place` is tried first. Also raises what `find` raises.
    No place remains if it raises.
    """
    while True:
        place = place or await find()
        try:
            return place, await enter(place)
        except (WorldLost, WorldFailed) as exc:
            place.close()
            place = None
            note_loss(exc)
            logger.info("another place is looked for: %s", exc)
        except BaseException:
            place.close()
            raise
        await asyncio.sleep(pause_s)


async def find_again(
    find: Callable[[], Awaitable[HeldLease]], *, clock: WaitClock, pause_s: float
) -> HeldLease:
    """A place for a world that had one. A group that dies meanwhile does not end the wait.

    Raises WorldLost when the clock has run out, and WorldFailed if Serve has given up the groups.
    """
    now = asyncio.get_running_loop().time
    while True:
        try:
            return await find()
        except Busy as exc:
            raise WorldLost(f"the world's place is gone, and {exc}") from exc
        except WorldLost as exc:
            clock.note("queued", now())
            if clock.give_up_reason(now()) is not None:
                raise
            logger.info("another group is looked for: %s", exc)
        await asyncio.sleep(pause_s)
