"""Twenty sockets that send `init` and leave 0.3 s later, beside a walker and before a newcomer."""

import asyncio
import statistics
import time
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from msgspec import msgpack
from websockets.asyncio.client import connect as open_socket

from benchmarks.faults import Walk, first_frame, walk
from benchmarks.local_server import local_server, one_group
from benchmarks.server_sample import unended_sessions
from tests.deployments.tiny_world import write_tiny_world

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(600),
]

NUM_SOCKETS, NUM_ROUNDS = 20, 5
INIT = {"type": "init", "prompt": "x", "extensions": True}


@pytest.fixture
def server(tmp_path):
    """The pocket world's frames and autoencoder, and a DiT that costs nothing, for all clients."""
    args = write_tiny_world(tmp_path, size="208x128") | {"group": {"pace": "shared"}}
    with local_server(args, change=one_group) as running:
        yield running


async def ask_and_leave(server):
    async with open_socket(server.ws, max_size=None, compression=None) as socket:
        await socket.send(msgpack.encode(INIT))
        await asyncio.sleep(0.3)
        socket.transport.abort()


async def time_first_frame(server):
    began_s = time.monotonic()
    await first_frame(lambda: server)
    return time.monotonic() - began_s


@asynccontextmanager
async def walker(server):
    seen = Walk()
    walking = asyncio.create_task(walk(server, seen))
    try:
        while len(seen.arrived_s) < 4:
            await asyncio.sleep(0.05)
        yield seen
        assert not walking.done(), seen
    finally:
        walking.cancel()
        await asyncio.wait([walking])  # until its socket is closed


def test_sockets_that_leave_at_once_delay_no_newcomer_and_end_no_walk(server):
    """The walker's longest gap is printed: on two cores twenty handshakes at once cost more."""

    async def scenario():
        await time_first_frame(server)  # the first one of a server pays for imports
        quiet_s = [await time_first_frame(server) for _ in range(NUM_ROUNDS)]
        after_s = []
        async with walker(server) as seen:
            for _ in range(NUM_ROUNDS):
                await asyncio.gather(*(ask_and_leave(server) for _ in range(NUM_SOCKETS)))
                after_s.append(await time_first_frame(server))
        return quiet_s, after_s, [after - before for before, after in pairwise(seen.arrived_s)]

    quiet_s, after_s, gaps_s = asyncio.run(asyncio.wait_for(scenario(), 300))
    print(f"first frame: quiet {quiet_s}, after twenty that left {after_s}; gaps {max(gaps_s):.2f}")
    assert statistics.median(after_s) < 2 * statistics.median(quiet_s)
    while unended_sessions(server.log.read_text()):
        time.sleep(0.1)  # the test's timeout ends a wait for a session that stays
