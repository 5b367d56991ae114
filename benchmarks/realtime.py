"""Is it real time? One client on the whole stack, over loopback: python benchmarks/realtime.py

Starts `serve run serve_config.yaml` on a free port and walks 60 chunks of the pocket world twice,
the first 6 of each left out. Once as fast as acks allow: a chunk's period divided by its
media time is below 1 where the stack keeps up. Then paced, as a browser walks, with keys tapped at
random moments: when their first frame is on screen, how many chunks came too late to be shown on
time, how late the transport's event loop ran and what the object store held meanwhile. Prints a
table, then one JSON line.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from transport.client import Client, connect

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": "local"}
LEFT_OUT = 6
TAP_EVERY_S = (0.4, 1.6)


@contextmanager
def running_server() -> Iterator[str]:
    """`serve run` on a free port: yields host:port."""
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = config["http_options"]["port"] = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serve_config.yaml"
        path.write_text(yaml.safe_dump(config))
        process = subprocess.Popen(
            [BIN / "serve", "run", path],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until_ready(f"127.0.0.1:{port}", process)
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        try:
            health(address)
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server did not come up")


def health(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{address}/health", timeout=5) as answer:
        body: dict[str, Any] = json.load(answer)
    return body


def object_store_bytes() -> int:
    """What the object store holds now, of the one local cluster, to the MiB."""
    report = subprocess.run(
        [BIN / "ray", "memory", "--stats-only"],
        env={**ENVIRONMENT, "RAY_ADDRESS": "auto"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.search(r"Plasma memory usage (\d+) MiB", report)
    if found is None:
        raise SystemExit(f"no figure of the object store in:\n{report}")
    return int(found[1]) * 2**20


@dataclass
class Walk:
    """What one client saw; times in seconds of one clock."""

    arrived: list[float] = field(default_factory=list)  # of each chunk's last byte
    media: list[float] = field(default_factory=list)  # length of each chunk
    late: list[bool] = field(default_factory=list)  # the player had nothing left to show
    reaction: list[float] = field(default_factory=list)  # key to first affected frame on screen
    stored: list[int] = field(default_factory=list)


async def walk(address: str, num_chunks: int, *, paced: bool) -> Walk:
    seen = Walk()
    tapped: dict[int, float] = {}
    url = f"ws://{address}/v1/realtime_video/generate"
    init = {"seed": 1, "realtime_output_format": "jpeg", "realtime_output_pacing": paced}
    async with connect(url, **init) as client:
        tapping = asyncio.create_task(tap(client, tapped))
        weighing = asyncio.create_task(weigh(seen))
        playhead = 0.0  # when the player will have shown everything that arrived
        async for chunk in client.chunks():
            now = time.monotonic()
            assert client.session is not None and chunk.applied is not None
            starts = max(playhead, now)
            playhead = starts + len(chunk.frames) / client.session.fps
            seen.arrived.append(now)
            seen.media.append(len(chunk.frames) / client.session.fps)
            seen.late.append(starts == now)
            if chunk.index >= LEFT_OUT:
                times = (tapped.pop(event, None) for event in chunk.applied.event_ids)
                seen.reaction += [starts - pressed for pressed in times if pressed is not None]
            if chunk.index + 1 == num_chunks:
                break
        for task in (tapping, weighing):
            task.cancel()
    return seen


async def tap(client: Client, tapped: dict[int, float]) -> None:
    chance = random.Random(0)
    while True:
        await asyncio.sleep(chance.uniform(*TAP_EVERY_S))
        pressed = time.monotonic()
        tapped[await client.hold(chance.choice(["w", "wl", "wj", "a", "d", "i", "k", ""]))] = (
            pressed
        )


async def weigh(seen: Walk) -> None:
    """A few times only: asking costs a process."""
    while True:
        await asyncio.sleep(10)
        seen.stored.append(await asyncio.to_thread(object_store_bytes))


def summarize(fast: Walk, paced: Walk, lag: dict[str, float]) -> dict[str, float]:
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
        "loop_lag_ms_p99": lag["p99"],
        "object_store_bytes_max": max(paced.stored, default=0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=60)
    num_chunks = parser.parse_args().chunks
    with running_server() as address:
        fast = asyncio.run(walk(address, num_chunks, paced=False))
        paced = asyncio.run(walk(address, num_chunks, paced=True))
        figures = summarize(fast, paced, health(address)["loop_lag_ms"])
    for name, value in figures.items():
        print(f"{name:28} {value:>10}")
    machine = {"cpus": os.cpu_count(), "processor": platform.machine()}
    print(json.dumps({"benchmark": "realtime", **machine, **figures}))


if __name__ == "__main__":
    main()
