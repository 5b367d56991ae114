"""The whole stack in real time, with one client over loopback: `python -m benchmarks.realtime`.

Starts a server of the shipped config on a free port and walks 60 chunks of the pocket world. The
first 6 are not counted.

1. Paced as a browser walks, with keys tapped at random moments: time from a key to its first frame
   on screen, chunks that came too late, lag of the transport's event loop.
2. As fast as acks allow: a chunk's period over its media time. Below 1, the stack keeps up.
3. Half as long, paced: the most that the object store held.

With --speed, only the second of these: in under a minute. A machine is fast enough if its p95 is
below 0.8.

With --browser, the client is the page in a headless Chromium on the same machine, keys are held for
seconds, and the figures are the page's own statistics. A chunk has arrived when the page
acknowledges it: all its frames are decoded.

1. Paced, as the page always walks. A period is the media time, less where a new key flushes older
   frames. The frames that are shown and late show whether the stack keeps up.
2. As fast as the page's acks allow, by `realtime_output_pacing` in its init. The period over the
   media time includes transport and decoding. The page shows frames at the media rate and drops
   the rest.

Prints a table, then one JSON line.
"""

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.local_server import LocalServer, local_server
from benchmarks.percentiles import percentiles
from benchmarks.printing import print_json
from transport.client import Client, connect

WARM_UP_CHUNKS = 6
MIN_STORE_CHUNKS = 20
TAP_EVERY_S = (0.4, 1.6)
HOLD_S = (2.0, 6.0)  # in the browser, where each new key makes a paced chunk come early
STORE_EVERY_S = 5.0
TAPPED_KEYS = ("w", "wl", "wj", "a", "d", "i", "k", "")


def loop_lag_p99(server: LocalServer) -> float:
    """Lag of the transport's event loop over the last minute, in milliseconds."""
    with urllib.request.urlopen(f"{server.http}/health", timeout=5) as answer:
        return float(json.load(answer)["loop_lag_ms"]["p99"])


def object_store_mib() -> int:
    """Memory in use by the object store of the only local cluster, in whole MiB."""
    ray = Path(sys.executable).with_name("ray")
    report = subprocess.run(
        ["env", "RAY_AUTH_MODE=disabled", "RAY_ADDRESS=auto", str(ray), "memory", "--stats-only"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"Plasma memory usage (\d+) MiB", report)
    if found is None:
        raise SystemExit(f"no figure of the object store in:\n{report}")
    return int(found[1])


@dataclass(kw_only=True)
class Walk:
    """One client's observations; each list but the last has an element for each chunk."""

    arrived_s: list[float] = field(default_factory=list)  # clock time of the last byte
    media_s: list[float] = field(default_factory=list)
    is_late: list[bool] = field(default_factory=list)  # the player had no frame left
    reaction_s: list[float] = field(default_factory=list)  # key to first affected frame on screen


async def measure_walk(server: LocalServer, num_chunks: int, *, paced: bool) -> Walk:
    """Plays a session and simulates a player that shows frames at the media rate."""
    seen = Walk()
    tapped_s: dict[int, float] = {}
    init: dict[str, Any] = {"seed": 1, "realtime_output_format": "jpeg"}
    init |= {"realtime_output_pacing": paced, "realtime_cut_over": True}  # as the page
    async with connect(server.ws, **init) as client:
        tapping = asyncio.create_task(tap_keys(client, tapped_s))
        underrun_s = 0.0  # when the player will have shown every received frame
        async for chunk in client.chunks():
            now = time.monotonic()
            assert client.session is not None
            media_s = len(chunk.frames) / client.session.fps
            starts_s = now if chunk.flushes_older else max(underrun_s, now)
            seen.arrived_s.append(now)
            seen.media_s.append(media_s)
            seen.is_late.append(underrun_s < now)
            underrun_s = starts_s + media_s
            if chunk.index >= WARM_UP_CHUNKS:
                taps = (tapped_s.pop(event, None) for event in chunk.applied.event_ids)
                seen.reaction_s += [starts_s - tap_s for tap_s in taps if tap_s is not None]
            if chunk.index + 1 == num_chunks:
                break
        tapping.cancel()
    return seen


async def tap_keys(client: Client, tapped_s: dict[int, float]) -> None:
    """Adds the time of each tap by its event id."""
    for wait_s, keys in random_taps(TAP_EVERY_S):
        await asyncio.sleep(wait_s)
        now = time.monotonic()
        tapped_s[await client.hold(keys)] = now


def random_taps(every_s: tuple[float, float]) -> Iterator[tuple[float, str]]:
    """An endless sequence, the same each time: seconds to wait, then the keys to hold."""
    chance = random.Random(0)
    while True:
        yield chance.uniform(*every_s), chance.choice(TAPPED_KEYS)


async def measure_store(server: LocalServer, num_chunks: int) -> list[int]:
    """MiB in the object store during a paced walk of its own: each reading starts a process."""
    walking = asyncio.create_task(measure_walk(server, num_chunks, paced=True))
    store_mib = []
    while not (await asyncio.wait([walking], timeout=STORE_EVERY_S))[0]:
        store_mib.append(await asyncio.to_thread(object_store_mib))
    walking.result()
    return store_mib


def measure(server: LocalServer, num_chunks: int) -> dict[str, float]:
    paced = asyncio.run(measure_walk(server, num_chunks, paced=True))
    lag_p99_ms = loop_lag_p99(server)
    speed = measure_speed(server, num_chunks)
    store_mib = asyncio.run(measure_store(server, max(MIN_STORE_CHUNKS, num_chunks // 2)))
    return {
        **speed,
        **percentiles("control_to_frame_ms", 1000 * np.array(paced.reaction_s)),
        "taps": len(paced.reaction_s),
        "late_chunks": sum(paced.is_late[WARM_UP_CHUNKS:]),
        "loop_lag_ms_p99": lag_p99_ms,
        "object_store_mib_max": max(store_mib),
    }


def measure_speed(server: LocalServer, num_chunks: int) -> dict[str, float]:
    unpaced = asyncio.run(measure_walk(server, num_chunks, paced=False))
    period_s = np.diff(unpaced.arrived_s)[WARM_UP_CHUNKS - 1 :]
    period_over_media = period_s / np.array(unpaced.media_s)[WARM_UP_CHUNKS:]
    return {
        "chunks": len(period_over_media),
        **percentiles("period_over_media", period_over_media, digits=3),
    }


def measure_browser(server: LocalServer, num_chunks: int) -> dict[str, float]:
    from benchmarks import browser  # here, because the other client needs no playwright

    with urllib.request.urlopen(f"{server.http}/v1/world", timeout=5) as answer:
        fps = int(json.load(answer)["fps"])
    figures: dict[str, float] = {}
    for name, paced in (("paced", True), ("unpaced", False)):
        taps = random_taps(HOLD_S)
        watched = browser.run_session(server.http, num_chunks, paced=paced, taps=taps)
        summary = browser.summarize_playout(watched, fps=fps, left_out=WARM_UP_CHUNKS)
        figures |= {f"{name}_{figure}": value for figure, value in summary.items()}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chunks", type=int, default=60)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--browser", action="store_true", help="use the page in Chromium")
    only.add_argument("--speed", action="store_true", help="only the period, under a minute")
    options = parser.parse_args()
    if options.chunks <= WARM_UP_CHUNKS:
        parser.error(f"--chunks must be more than {WARM_UP_CHUNKS}, which are not counted")
    name, run = "realtime", measure
    if options.browser:
        name, run = "realtime_browser", measure_browser
    elif options.speed:
        name, run = "realtime_speed", measure_speed
    with local_server({"device": options.device}) as server:
        figures = run(server, options.chunks)
    for figure, value in figures.items():
        print(f"{figure:32} {value:>10}")
    print_json(name, {"device": options.device, **figures})


if __name__ == "__main__":
    main()
