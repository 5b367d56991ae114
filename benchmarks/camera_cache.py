"""What is the camera cache worth? python -m benchmarks.camera_cache [--preset-14b]

Random weights, of a shape where arithmetic dominates, make the same world in five ways, in turn
chunk by chunk, so that whatever else the machine does hits all alike: a key held without and with
the cache, keys as a person presses them, and a path on which every latent frame's pose is new, with
and without. The decoder is left out. Prints for each way the median chunk, the mean seconds that a
chunk spent on making camera maps and their share of all, what the cache did, and the median ratio
to the same chunk without cache; then one JSON line. --preset-14b takes the shapes of the 14B model
at 832x480 in bfloat16, needs a GPU, and prints the peak memory.
"""

import argparse
import dataclasses
import itertools
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch

from benchmarks.random_world import (
    MIB,
    add_options,
    make_engine,
    random_model,
    random_spec,
    read_options,
)
from lingbot.camera.motion import Poses, Trajectory
from lingbot.camera.pose_file import rotation_matrix
from lingbot.dit.camera_cache import CacheStats, CameraCache
from lingbot.runtime.engine import Engine
from lingbot.runtime.session import Session

# A person's walk: the keys held, and for how many latent frames.
WALK = [("w", 7), ("wl", 4), ("w", 5), ("l", 3), ("wi", 2), ("w", 6), ("wj", 5), ("k", 2)]
WALK += [("a", 4), ("", 3), ("wd", 4), ("s", 3)]


class PoseFile:
    """Stands in for a session's trajectory, which knows keys only; no pose comes twice."""

    def __init__(self) -> None:
        self.chance = np.random.default_rng(0)

    def extend(self, actions: Sequence[str]) -> Poses:
        poses = np.stack([np.eye(4)] * len(actions))
        for pose in poses:
            pose[:3, :3] = rotation_matrix(self.chance.normal(scale=0.05, size=3))
            pose[:3, 3] = self.chance.normal(scale=0.5, size=3)
        return poses


@dataclass
class Way:
    """One way to walk, and what was measured of it."""

    name: str
    against: str  # the way without cache that makes the same pictures, or as many of them
    engine: Engine
    session: Session
    keys: Iterator[str]
    chunk_s: list[float] = field(default_factory=list)
    conditioner_s: list[float] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    warm: CacheStats | None = None  # after the chunk that is not counted

    def step(self) -> None:
        cache = self.engine.camera_cache
        actions = list(itertools.islice(self.keys, self.engine.config.chunk))
        spent, started = cache.stats.conditioner_s, time.perf_counter()
        self.engine.denoise(self.session, actions)
        seconds, stats = time.perf_counter() - started, cache.stats
        self.stored.append(stats.stored_bytes)
        if self.warm is None:
            self.warm = stats
        else:
            self.chunk_s.append(seconds)
            self.conditioner_s.append(stats.conditioner_s - spent)


def make_ways(options: argparse.Namespace) -> list[Way]:
    model = random_model(options)
    held, walk = ["w"], [keys for keys, frames in WALK for _ in range(frames)]
    ways: list[Way] = []
    for name, against, keys, cached, pose_file in (
        ("held key, no cache", "", held, False, False),
        ("held key", "held key, no cache", held, True, False),
        ("moving script", "held key, no cache", walk, True, False),
        ("every pose new, no cache", "", held, False, True),
        ("every pose new", "every pose new, no cache", held, True, True),
    ):
        engine = make_engine(
            model, options, budget_bytes=int(options.budget * MIB) if cached else 0
        )
        session = engine.open(random_spec(engine.config))
        if ways:  # time does not depend on what is remembered, so one memory will do for all
            session.window = dataclasses.replace(ways[0].session.window)
            session.text = ways[0].session.text
        if pose_file:
            session.trajectory = cast(Trajectory, PoseFile())
        ways.append(Way(name, against, engine, session, itertools.cycle(keys)))
    return ways


def summarize(way: Way, ways: Sequence[Way]) -> dict[str, Any]:
    stats, warm = way.engine.camera_cache.stats, way.warm
    assert warm is not None
    figures: dict[str, Any] = {
        "chunk_s": round(statistics.median(way.chunk_s), 3),
        "conditioner_s": round(statistics.mean(way.conditioner_s), 4),
        "share_percent": round(100 * sum(way.conditioner_s) / sum(way.chunk_s), 2),
        "hits": stats.hits - warm.hits,
        "misses": stats.misses - warm.misses,
        "evictions": stats.evictions - warm.evictions,
        "stored_mib_max": round(max(way.stored) / MIB, 1),
    }
    for other in ways:
        if other.name == way.against:
            pairs = zip(way.chunk_s, other.chunk_s, strict=True)
            figures["ratio"] = round(statistics.median(mine / its for mine, its in pairs), 3)
    return figures


def print_table(results: dict[str, dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for figures in results.values() for name in figures))
    print(" " * 26 + "".join(f"{name:>16}" for name in columns))
    for way, figures in results.items():
        print(f"{way:26}" + "".join(f"{figures.get(name, '-'):>16}" for name in columns))


def gpu_memory(ways: list[Way]) -> dict[str, float]:
    """Peak memory, and what the caches say that they hold against what is freed with them."""
    peak = torch.cuda.max_memory_allocated() / MIB
    said = sum(way.stored[-1] for way in ways) / MIB
    before = torch.cuda.memory_allocated() / MIB
    for way in ways:
        way.engine.camera_cache = CameraCache(way.engine.model, budget_bytes=0)
    freed = before - torch.cuda.memory_allocated() / MIB
    return {"peak_mib": round(peak), "caches_say_mib": round(said), "freed_mib": round(freed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser)
    parser.add_argument("--chunks", type=int, default=12, help="that count; one more warms up")
    options = read_options(parser)

    found = torch.cuda.is_available()
    facts: dict[str, Any] = {
        "benchmark": "camera_cache",
        "accelerator": torch.cuda.get_device_name() if found else "none",
        "cpus": os.cpu_count(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **vars(options),
    }
    print(f"accelerator: {facts['accelerator']}")
    if options.device.startswith("cuda") and not found:
        print("left out: it needs an accelerator")
        print(json.dumps({**facts, "left_out": True}))
        return
    ways = make_ways(options)
    order = random.Random(0)
    for _ in range(options.chunks + 1):
        for way in order.sample(ways, len(ways)):
            way.step()

    results = {way.name: summarize(way, ways) for way in ways}
    rows, columns = ways[0].engine.config.grid
    facts["tokens"] = rows * columns
    facts["budget_held"] = all(
        max(way.stored) <= way.engine.camera_cache.budget_bytes for way in ways
    )
    print_table(results)
    share, ratio = results["held key"]["share_percent"], results["every pose new"]["ratio"]
    print(f"held key: {share} % of a chunk in the conditioner (claim: under 2)")
    print(f"every pose new: {ratio} x the time without cache (claim: at most 1.02)")
    print(f"budget held: {facts['budget_held']}")
    if options.device.startswith("cuda"):
        facts |= gpu_memory(ways)
        print(
            "memory:", {name: facts[name] for name in ("peak_mib", "caches_say_mib", "freed_mib")}
        )
    print(json.dumps({**facts, "ways": results}))


if __name__ == "__main__":
    main()
