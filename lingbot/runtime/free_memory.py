"""The memory of a device that is free for a rank."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lingbot.runtime.cgroups import cgroup_folders, read_text

if TYPE_CHECKING:  # a start's checks need the host's memory, and no torch
    import torch

    from lingbot.parallel.ulysses import SequenceParallelGroup


def free_for_rank(
    device: "torch.device", group: "SequenceParallelGroup", *, other_bytes: int = 0
) -> int | None:
    """Bytes that are free on this rank's device; None where the system does not report it.

    Each rank has a GPU of its own, beside other processes that take `other_bytes` of it sooner or
    later. On a CPU the ranks share what rank 0 finds before any of them has loaded its weights.
    """
    if device.type == "cuda":
        import torch

        now, total = torch.cuda.mem_get_info(device)
        return free_beside(other_bytes, free=int(now), total=int(total))
    free = group.from_rank_0(free_host_memory)
    return None if free is None else free // group.num_ranks


def free_beside(other_bytes: int, *, free: int, total: int) -> int:
    """Bytes of a GPU that stay free once other processes have taken `other_bytes` of `total`.

    They may have taken them already: then `free` lacks them.
    """
    return max(0, min(free, total - other_bytes))


def free_host_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take, within the limits of its cgroups.

    `root` is the folder that holds Linux's `proc` and `sys`. None elsewhere.
    """
    available = read_fields(root / "proc/meminfo").get("MemAvailable")
    if available is None:
        return None
    return min([available * 1024, *_cgroup_rooms(root)])


def _cgroup_rooms(root: Path) -> Iterator[int]:
    """The bytes that each cgroup leaves. File cache that the kernel would give back is free."""
    for group in cgroup_folders(root, "memory"):
        for limit, usage, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            most, used = (read_text(group / name).strip() for name in (limit, usage))
            if most.isdecimal() and used.isdecimal():  # "max": no limit
                kept = read_fields(group / "memory.stat").get(cache, 0)
                yield max(0, int(most) - int(used) + kept)


def read_fields(path: Path) -> dict[str, int]:
    """The numbers of a file with a name and a number in each line."""
    fields = (line.replace(":", " ").split() for line in read_text(path).splitlines())
    return {name: int(number) for name, number, *_ in fields if number.isdecimal()}
