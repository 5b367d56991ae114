"""The gain of the camera cache.

`python -m benchmarks.camera_cache [--preset-14b]` denoises walks with random weights, of a shape
where arithmetic dominates. Two walks run without and with the cache: a held key, and a path with a
new pose in every latent frame. A third, with keys as a person presses them, runs with the cache.
They take turns chunk by chunk, so that other load on the machine affects all of them. Decoding is
left out.

Prints a table, one row per walk: the median chunk, the mean seconds of a chunk in the conditioner
and their share, the cache's counts, and the median ratio to the same chunk without cache. Then it
prints one JSON line. --preset-14b takes the shapes of the 14B model at 832x480 in bfloat16, needs a
GPU, and prints the peak memory.
"""

import argparse
import dataclasses
import itertools
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch

from benchmarks.printing import print_json
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

# A person's walk: the keys held, and the number of latent frames.
WALK = [("w", 7), ("wl", 4), ("w", 5), ("l", 3), ("wi", 2), ("w", 6), ("wj", 5), ("k", 2)]
WALK += [("a", 4), ("", 3), ("wd", 4), ("s", 3)]


class PoseFile:
    """Replaces a session's trajectory, which takes keys; no pose repeats."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def extend(self, actions: Sequence[str]) -> Poses:
        poses = np.stack([np.eye(4)] * len(actions))
        for pose in poses:
            pose[:3, :3] = rotation_matrix(self.random.normal(scale=0.05, size=3))
            pose[:3, 3] = self.random.normal(scale=0.5, size=3)
        return poses


@dataclass(kw_only=True)
class Variant:
    """One walk, with or without cache, and its measurements."""

    name: str
    against: str  # the walk without cache to compare with; '' for none
    engine: Engine
    session: Session
    keys: Iterator[str]
    chunk_s: list[float] = field(default_factory=list)
    conditioner_s: list[float] = field(default_factory=list)
    stored_bytes: list[int] = field(default_factory=list)
    warm: CacheStats | None = None  # after the first chunk, which is not measured

    def step(self) -> None:
        cache = self.engine.camera_cache
        actions = list(itertools.islice(self.keys, self.engine.config.chunk))
        spent, started = cache.stats.conditioner_s, time.perf_counter()
        self.engine.denoise(self.session, actions)
        seconds, stats = time.perf_counter() - started, cache.stats
        self.stored_bytes.append(stats.stored_bytes)
        if self.warm is None:
            self.warm = stats
        else:
            self.chunk_s.append(seconds)
            self.conditioner_s.append(stats.conditioner_s - spent)


def make_variants(options: argparse.Namespace) -> list[Variant]:
    model = random_model(options)
    held, walk = ["w"], [keys for keys, frames in WALK for _ in range(frames)]
    variants: list[Variant] = []
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
        if variants:  # all share one window, because time does not depend on its contents
            session.window = dataclasses.replace(variants[0].session.window)
            session.text = variants[0].session.text
        if pose_file:
            session.trajectory = cast(Trajectory, PoseFile())
        variants.append(
            Variant(
                name=name,
                against=against,
                engine=engine,
                session=session,
                keys=itertools.cycle(keys),
            )
        )
    return variants


def measure_variant(variant: Variant, variants: Sequence[Variant]) -> dict[str, Any]:
    stats, warm = variant.engine.camera_cache.stats, variant.warm
    assert warm is not None
    metrics: dict[str, Any] = {
        "chunk_s": round(statistics.median(variant.chunk_s), 3),
        "conditioner_s": round(statistics.mean(variant.conditioner_s), 4),
        "share_percent": round(100 * sum(variant.conditioner_s) / sum(variant.chunk_s), 2),
        "hits": stats.hits - warm.hits,
        "misses": stats.misses - warm.misses,
        "evictions": stats.evictions - warm.evictions,
        "stored_mib_max": round(max(variant.stored_bytes) / MIB, 1),
    }
    for other in variants:
        if other.name == variant.against:
            pairs = zip(variant.chunk_s, other.chunk_s, strict=True)
            metrics["ratio"] = round(statistics.median(own / other_s for own, other_s in pairs), 3)
    return metrics


def print_table(results: dict[str, dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for metrics in results.values() for name in metrics))
    print(" " * 26 + "".join(f"{name:>16}" for name in columns))
    for variant, metrics in results.items():
        print(f"{variant:26}" + "".join(f"{metrics.get(name, '-'):>16}" for name in columns))


def gpu_memory(variants: list[Variant]) -> dict[str, float]:
    """Peak memory; the caches' own count of their bytes, and the bytes that clearing them frees."""
    peak = torch.cuda.max_memory_allocated() / MIB
    counted = sum(variant.stored_bytes[-1] for variant in variants) / MIB
    before = torch.cuda.memory_allocated() / MIB
    for variant in variants:
        variant.engine.camera_cache = CameraCache(variant.engine.model, budget_bytes=0)
    freed = before - torch.cuda.memory_allocated() / MIB
    return {"peak_mib": round(peak), "caches_say_mib": round(counted), "freed_mib": round(freed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser)
    parser.add_argument("--chunks", type=int, default=12, help="measured chunks; one more warms up")
    options = read_options(parser)

    found = torch.cuda.is_available()
    facts: dict[str, Any] = {
        "accelerator": torch.cuda.get_device_name() if found else "none",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **vars(options),
    }
    print(f"accelerator: {facts['accelerator']}")
    if options.device.startswith("cuda") and not found:
        print("left out: it needs an accelerator")
        print_json("camera_cache", {**facts, "left_out": True})
        return
    variants = make_variants(options)
    order = random.Random(0)
    for _ in range(options.chunks + 1):
        for variant in order.sample(variants, len(variants)):
            variant.step()

    results = {variant.name: measure_variant(variant, variants) for variant in variants}
    rows, columns = variants[0].engine.config.size.grid
    facts["tokens"] = rows * columns
    facts["budget_held"] = all(
        max(variant.stored_bytes) <= variant.engine.camera_cache.budget_bytes
        for variant in variants
    )
    print_table(results)
    share, ratio = results["held key"]["share_percent"], results["every pose new"]["ratio"]
    print(f"held key: {share} % of a chunk in the conditioner (claim: under 2)")
    print(f"every pose new: {ratio} x the time without cache (claim: at most 1.02)")
    print(f"budget held: {facts['budget_held']}")
    if options.device.startswith("cuda"):
        facts |= gpu_memory(variants)
        print(
            "memory:", {name: facts[name] for name in ("peak_mib", "caches_say_mib", "freed_mib")}
        )
    print_json("camera_cache", {**facts, "ways": results})


if __name__ == "__main__":
    main()
