"""The CPU threads of a rank: its share of the physical cores that this machine grants."""

import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from lingbot.runtime.cgroups import cgroup_folders, read_text


def threads_per_rank(num_ranks: int, *, num_cpus: float | None = None) -> int:
    """How many threads a rank uses for denoising, and rank 0 as many for decoding.

    `num_cpus` is what the group has of this machine's CPUs; None: all.

    The cores are divided into `num_ranks + 1` shares: each rank denoises, and rank 0 decodes at the
    same time. More threads than cores would wait for each other in every product.
    """
    cores = usable_cores()
    if num_cpus is not None:
        cores = min(cores, round(cores * num_cpus / usable_cpus()))
    return max(1, cores // (num_ranks + 1))


def usable_cores(root: Path = Path("/")) -> int:
    """Physical cores within the CPU affinity and the cgroup quotas of this process, at least 1.

    `root` is the folder that holds Linux's `proc` and `sys`. Elsewhere every CPU is a core.
    """
    num_cores = len({_siblings(root, cpu) for cpu in _allowed_cpus()})
    return max(1, int(min([num_cores, *_cgroup_quotas(root)])))


def usable_cpus(root: Path = Path("/")) -> float:
    """As `usable_cores`, with each hardware thread as a CPU: Ray counts these. May be under 1."""
    return min([len(_allowed_cpus()), *_cgroup_quotas(root)])


def _allowed_cpus() -> Collection[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def _siblings(root: Path, cpu: int) -> str:
    """The CPUs that share the core of `cpu`, the same text for each of them."""
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    return read_text(topology) or str(cpu)


def _cgroup_quotas(root: Path) -> Iterator[float]:
    """The limits of this process's cgroups and of those around them, in CPUs."""
    for group in cgroup_folders(root, "cpu"):
        yield _quota(group)


def _quota(group: Path) -> float:
    """The limit of one cgroup in CPUs; infinite where it has none."""
    if limits := read_text(group / "cpu.max"):
        quota, period = limits.split()
    else:
        quota, period = (
            read_text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
        )
    return int(quota) / int(period) if quota.isdecimal() else math.inf  # "max" and -1: no limit
