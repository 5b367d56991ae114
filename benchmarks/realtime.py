"""Is it real time? One client on the whole stack, over loopback: python -m benchmarks.realtime

Starts `serve run serve_config.yaml` on a free port and walks 60 chunks of the pocket world, the
first 6 left out, first paced as a browser walks, with keys tapped at random moments: when their
first frame is on screen, how many chunks came too late to be shown on time, how late the
transport's event loop ran. Then as fast as acks allow: a chunk's period divided by its media time
is below 1 where the stack keeps up. A third walk, half as long, weighs the object store. Prints a
table, then one JSON line.

With --browser the client is the page itself, in a headless Chromium on the same machine, keys are
held for seconds, and the figures are the page's own statistics. A chunk has arrived when the page
acknowledges it: its bytes came over the WebSocket and all its frames are decoded. First paced, as
the page always walks: its period is its media time, less where a new key cuts over; how many frames
are shown and late says whether the stack keeps up. Then as fast as those acks allow, by one field
(`realtime_output_pacing`) added to the page's init on its way out: the period over media time is
below 1 where the stack keeps up, transport and the browser's decoding included. The page shows that
walk at media rate, and drops the rest.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.local_server import LocalServer, local_server
from transport.client import Client, connect

LEFT_OUT = 6
TAP_EVERY_S = (0.4, 1.6)
HOLD_S = (2.0, 6.0)  # in the browser, whose paced chunks come early with each new key
WEIGH_EVERY_S = 5.0
KEYS = ("w", "wl", "wj", "a", "d", "i", "k", "")


def loop_lag_p99(server: LocalServer) -> float:
    """Milliseconds, of the transport's event loop over the last minute."""
    with urllib.request.urlopen(f"{server.http}/health", timeout=5) as answer:
        return float(json.load(answer)["loop_lag_ms"]["p99"])


def object_store_mib() -> int:
    """What the object store of the one local cluster holds now; `ray memory` counts whole MiB."""
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


@dataclass
class Walk:
    """What one client saw; times in seconds of one clock."""

    arrived: list[float] = field(default_factory=list)  # of each chunk's last byte
    media: list[float] = field(default_factory=list)  # length of each chunk
    late: list[bool] = field(default_factory=list)  # the player had nothing left to show
    reaction: list[float] = field(default_factory=list)  # key to first affected frame on screen
    stored: list[int] = field(default_factory=list)  # MiB


async def walk(server: LocalServer, num_chunks: int, *, paced: bool) -> Walk:
    seen = Walk()
    tapped: dict[int, float] = {}
    init = {"seed": 1, "realtime_output_format": "jpeg", "realtime_output_pacing": paced}
    init |= {"realtime_cut_over": True}  # as the page
    async with connect(server.ws, **init) as client:
        tapping = asyncio.create_task(tap(client, tapped))
        playhead = 0.0  # when the player will have shown everything that arrived
        async for chunk in client.chunks():
            now = time.monotonic()
            assert client.session is not None
            starts = now if chunk.flushes_older else max(playhead, now)
            late = playhead < now
            playhead = starts + len(chunk.frames) / client.session.fps
            seen.arrived.append(now)
            seen.media.append(len(chunk.frames) / client.session.fps)
            seen.late.append(late)
            if chunk.index >= LEFT_OUT:
                times = (tapped.pop(event, None) for event in chunk.applied.event_ids)
                seen.reaction += [starts - pressed for pressed in times if pressed is not None]
            if chunk.index + 1 == num_chunks:
                break
        tapping.cancel()
    return seen


async def tap(client: Client, tapped: dict[int, float]) -> None:
    for wait_s, keys in random_taps(TAP_EVERY_S):
        await asyncio.sleep(wait_s)
        pressed = time.monotonic()
        tapped[await client.hold(keys)] = pressed


def random_taps(every_s: tuple[float, float]) -> Iterator[tuple[float, str]]:
    """Without end, the same each time: seconds to wait, then the keys to hold."""
    chance = random.Random(0)
    while True:
        yield chance.uniform(*every_s), chance.choice(KEYS)


async def weigh(server: LocalServer, num_chunks: int) -> Walk:
    """A walk of its own, because asking for the store's size costs a process each time."""
    walking = asyncio.create_task(walk(server, num_chunks, paced=True))
    stored = []
    while not (await asyncio.wait([walking], timeout=WEIGH_EVERY_S))[0]:
        stored.append(await asyncio.to_thread(object_store_mib))
    seen = walking.result()
    seen.stored = stored
    return seen


def summarize(fast: Walk, paced: Walk, weighed: Walk, lag_p99: float) -> dict[str, float]:
    period = np.diff(fast.arrived)[LEFT_OUT - 1 :] / np.array(fast.media)[LEFT_OUT:]
    reaction = 1000 * np.array(paced.reaction)
    return {
        "chunks": len(period),
        "period_over_media_p50": round(float(np.percentile(period, 50)), 3),
        "period_over_media_p95": round(float(np.percentile(period, 95)), 3),
        "control_to_frame_ms_p50": round(float(np.percentile(reaction, 50))),
        "control_to_frame_ms_p95": round(float(np.percentile(reaction, 95))),
        "taps": len(reaction),
        "late_chunks": sum(paced.late[LEFT_OUT:]),
        "loop_lag_ms_p99": lag_p99,
        "object_store_mib_max": max(weighed.stored),
    }


def measure(server: LocalServer, num_chunks: int) -> dict[str, float]:
    paced = asyncio.run(walk(server, num_chunks, paced=True))
    lag_p99 = loop_lag_p99(server)
    fast = asyncio.run(walk(server, num_chunks, paced=False))
    weighed = asyncio.run(weigh(server, max(20, num_chunks // 2)))
    return summarize(fast, paced, weighed, lag_p99)


def measure_browser(server: LocalServer, num_chunks: int) -> dict[str, float]:
    from benchmarks import browser  # here, because the other client needs no playwright

    with urllib.request.urlopen(f"{server.http}/v1/world", timeout=5) as answer:
        fps = int(json.load(answer)["fps"])
    figures: dict[str, float] = {}
    for name, paced in (("paced", True), ("unpaced", False)):
        taps = random_taps(HOLD_S)
        watched = browser.walk_page(server.http, num_chunks, paced=paced, taps=taps)
        summary = browser.summarize(watched, fps=fps, left_out=LEFT_OUT)
        figures |= {f"{name}_{figure}": value for figure, value in summary.items()}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=60)
    parser.add_argument("--browser", action="store_true", help="the client is the page in Chromium")
    options = parser.parse_args()
    if options.chunks <= LEFT_OUT:
        parser.error(f"--chunks must be more than the {LEFT_OUT} that are left out")
    name = "realtime_browser" if options.browser else "realtime"
    with local_server() as server:
        figures = (measure_browser if options.browser else measure)(server, options.chunks)
    for figure, value in figures.items():
        print(f"{figure:32} {value:>10}")
    machine = {"cpus": os.cpu_count(), "processor": platform.machine()}
    print(json.dumps({"benchmark": name, **machine, **figures}))


if __name__ == "__main__":
    main()
