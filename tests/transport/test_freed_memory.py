"""Memory is read from Linux's /proc; elsewhere the C library has no `malloc_trim` either."""

from pathlib import Path

import anyio
import pytest

from tests.waiting import until
from transport.freed_memory import find_trim, give_back

NUM_BLOCKS, BLOCK_BYTES = 2000, 50_000  # in the arena: larger blocks have a mapping of their own


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(find_trim() is None, reason="this C library has no malloc_trim")
def test_freed_blocks_leave_the_process():
    async def scenario():
        blocks = [b"x" * BLOCK_BYTES for _ in range(NUM_BLOCKS)]
        held = blocks[-1]  # above the others, so that free() cannot shrink the arena
        del blocks
        before = resident_bytes()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(give_back, 0.01)
            await until(lambda: before - resident_bytes() >= NUM_BLOCKS * BLOCK_BYTES / 2)
            tasks.cancel_scope.cancel()
        assert len(held) == BLOCK_BYTES

    anyio.run(scenario)
