"""Twenty sockets that leave while their world opens: `python -m benchmarks.leaving`.

Twenty clients send `init` at once and leave 0.3 s later, beside a walker and before a newcomer.
The group is shared, and its DiT costs nothing, so that opening a world is most of the work.

Columns, in seconds: a newcomer's first frame on a quiet server, and after the twenty; the ratio of
the two; the walker's longest time between two chunks, of 0.75 s of media each. Prints a table, then
one JSON line.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec import msgpack
from websockets.asyncio.client import connect as open_socket

from benchmarks.faults import Walk, first_frame, walk
from benchmarks.local_server import LocalServer, local_server, one_group
from benchmarks.printing import print_json, print_table
from benchmarks.tiny_world import write_tiny_world

NUM_SOCKETS, LEAVE_AFTER_S = 20, 0.3
NUM_WARM = 4  # first chunks of the walker, which come faster
INIT = {"type": "init", "prompt": "x", "extensions": True}


@contextmanager
def shared_server() -> Iterator[LocalServer]:
    """One group that all clients share, with the pocket world's frames and autoencoder."""
    with tempfile.TemporaryDirectory() as folder:
        args = write_tiny_world(Path(folder), size="208x128") | {"group": {"pace": "shared"}}
        with local_server(args, change=one_group) as server:
            yield server


async def ask_and_leave(server: LocalServer) -> None:
    """Send `init`, and leave while the world opens."""
    async with open_socket(server.ws, max_size=None, compression=None) as socket:
        await socket.send(msgpack.encode(INIT))
        await asyncio.sleep(LEAVE_AFTER_S)
        socket.transport.abort()


async def time_first_frame(server: LocalServer) -> float:
    """Seconds to a new client's first frame."""
    began_s = time.monotonic()
    await first_frame(lambda: server)
    return time.monotonic() - began_s


@asynccontextmanager
async def walker(server: LocalServer) -> AsyncIterator[Walk]:
    """The observations of a walker, from its first chunks on. It must not be ended meanwhile."""
    seen = Walk()
    walking = asyncio.create_task(walk(server, seen))
    try:
        while len(seen.arrived_s) < NUM_WARM:
            await asyncio.sleep(0.05)
        yield seen
        assert not walking.done(), seen
    finally:
        walking.cancel()
        await asyncio.wait([walking])  # until its socket is closed


async def measure(server: LocalServer, *, rounds: int) -> dict[str, Any]:
    """Seconds: the medians of the newcomers' first frames, and the walker's longest gap."""
    await time_first_frame(server)  # the first one of a server pays for imports
    quiet_s = [await time_first_frame(server) for _ in range(rounds)]
    after_s = []
    async with walker(server) as seen:
        for _ in range(rounds):
            await asyncio.gather(*(ask_and_leave(server) for _ in range(NUM_SOCKETS)))
            after_s.append(await time_first_frame(server))
    quiet, after = statistics.median(quiet_s), statistics.median(after_s)
    return {
        "quiet_s": round(quiet, 2),
        "after_s": round(after, 2),
        "ratio": round(after / quiet, 2),
        "gap_s_max": round(max(b - a for a, b in pairwise(seen.arrived_s)), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with shared_server() as server:
        found = asyncio.run(measure(server, rounds=options.rounds))
    print_table("twenty that leave", {f"{options.rounds} rounds": found})
    print_json("leaving", found)


if __name__ == "__main__":
    main()
