"""A flood of WebSocket handshakes beside one walker: `python -m benchmarks.handshakes`.

One client opens sockets at a fixed rate and leaves each as soon as it is open. A walker walks
before the flood, and during it. A period is the media time of a chunk, 0.75 s in the pocket world.

Prints a table of the time between two chunks of the walker, then one JSON line. The CPU time of a
handshake is that of the proxy and the transport replica beyond what the walker costs them.
"""

import argparse
import asyncio
import time
from typing import Any

import numpy as np
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import WebSocketException

from benchmarks.faults import Walk, walk
from benchmarks.local_server import LocalServer, command_line, local_server
from benchmarks.printing import print_json, print_table

PERIOD_S = 0.75
FRONT = ("ProxyActor", "lingbot:Transport")  # names of the processes that take sockets
NUM_WARM = 4  # first chunks of the walker, which come faster


async def shake_hands(server: LocalServer, took_s: list[float | None]) -> None:
    """One handshake. Adds the seconds that it took; None for one that failed."""
    began = time.monotonic()
    try:
        socket = await open_socket(server.ws, compression=None)
    except (OSError, WebSocketException):
        took_s.append(None)
        return
    took_s.append(time.monotonic() - began)
    socket.transport.abort()


async def flood(server: LocalServer, *, per_minute: int, seconds: float) -> list[float | None]:
    """Handshakes at a fixed rate, each in a task of its own."""
    took_s: list[float | None] = []
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(round(per_minute * seconds / 60)):
            await asyncio.sleep(began + number * 60 / per_minute - time.monotonic())
            tasks.create_task(shake_hands(server, took_s))
    return took_s


async def measure(server: LocalServer, *, per_minute: int, seconds: float) -> dict[str, Any]:
    """The walker's time between chunks, quiet and during the flood, and the handshakes' time."""
    seen = Walk()
    walking = asyncio.create_task(walk(server, seen))
    while len(seen.arrived_s) < NUM_WARM:
        assert not walking.done(), seen.error
        await asyncio.sleep(0.1)
    quiet_s, quiet_cpu_s = time.monotonic(), cpu_s(server)
    await asyncio.sleep(seconds / 2)
    began_s, began_cpu_s = time.monotonic(), cpu_s(server)
    took_s = await flood(server, per_minute=per_minute, seconds=seconds)
    ended_s, ended_cpu_s = time.monotonic(), cpu_s(server)
    await asyncio.sleep(2 * PERIOD_S)
    walking.cancel()
    await asyncio.wait([walking])  # until its socket is closed
    assert seen.error is None, seen.error
    walker_cpu = (began_cpu_s - quiet_cpu_s) / (began_s - quiet_s)
    flood_cpu_s = ended_cpu_s - began_cpu_s - walker_cpu * (ended_s - began_s)
    done = [each for each in took_s if each is not None]
    return {
        "quiet": gaps_of(seen, quiet_s, began_s),
        "flood": gaps_of(seen, began_s, ended_s + 2 * PERIOD_S),
        "handshakes_per_minute": round(60 * len(took_s) / (ended_s - began_s)),
        "handshakes_failed": len(took_s) - len(done),
        "handshake_cpu_ms": round(1000 * flood_cpu_s / len(took_s), 1),
        "handshake_ms_p50": round(1000 * float(np.percentile(done, 50))),
        "handshake_ms_p95": round(1000 * float(np.percentile(done, 95))),
    }


def cpu_s(server: LocalServer) -> float:
    """CPU seconds of the server's proxies and transport replicas so far."""
    return float(
        sum(
            sum(process.cpu_times()[:2])
            for process in server.processes()
            if any(name in command_line(process) for name in FRONT)
        )
    )


def gaps_of(seen: Walk, began_s: float, ended_s: float) -> dict[str, float]:
    """Figures of the times between two chunks that ended within these times."""
    gaps = np.diff([each for each in seen.arrived_s if began_s <= each <= ended_s])
    return {
        "chunks": len(gaps),
        "gap_s_p50": round(float(np.percentile(gaps, 50)), 2),
        "gap_s_p95": round(float(np.percentile(gaps, 95)), 2),
        "gap_s_max": round(float(gaps.max()), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-minute", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    with local_server() as server:
        found = asyncio.run(measure(server, per_minute=options.per_minute, seconds=options.seconds))
    print_table("the walker", {name: found[name] for name in ("quiet", "flood")})
    print_json("handshakes", found)


if __name__ == "__main__":
    main()
