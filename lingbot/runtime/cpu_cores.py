"""The CPU threads of a rank: its share of the physical cores that this machine grants."""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path


def threads_per_rank(num_ranks: int) -> int:
    """How many threads a rank uses for denoising, and rank 0 as many for decoding.

    The cores are divided into `num_ranks + 1` shares: each rank denoises, and rank 0 decodes at the
    same time. More threads than cores would wait for each other in every product.
    """
    return max(1, usable_cores() // (num_ranks + 1))


def usable_cores(root: Path = Path("/")) -> int:
    """Physical cores within the CPU affinity and the cgroup quotas of this process, at least 1.

    `root` is the folder that holds Linux's `proc` and `sys`. Elsewhere every CPU is a core.
    """
    if hasattr(os, "sched_getaffinity"):
        cpus: Iterable[int] = os.sched_getaffinity(0)
    else:
        cpus = range(os.cpu_count() or 1)
    num_cores = len({_siblings(root, cpu) for cpu in cpus})
    return max(1, int(min([num_cores, *_cgroup_quotas(root)])))


def _siblings(root: Path, cpu: int) -> str:
    """The CPUs that share the core of `cpu`, the same text for each of them."""
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    return _read(topology) or str(cpu)


def _cgroup_quotas(root: Path) -> Iterator[float]:
    """The limits of this process's cgroups and of those around them, in CPUs."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")  # version 1 has one each
        folder = mount / path.lstrip("/")
        for group in (folder, *folder.parents):
            yield _quota(group)
            if group == mount:
                break


def _quota(group: Path) -> float:
    """The limit of one cgroup in CPUs; infinite where it has none."""
    if limits := _read(group / "cpu.max"):
        quota, period = limits.split()
    else:
        quota, period = (
            _read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
        )
    return int(quota) / int(period) if quota.isdecimal() else math.inf  # "max" and -1: no limit


def _read(path: Path) -> str:
    """A file's text; empty without the file."""
    with suppress(OSError):
        return path.read_text()
    return ""
