"""The control groups by which Linux limits this process.

Tested in `tests/lingbot/runtime/test_cpu_cores.py`.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's cgroups with `controller`, and of those around them.

    `root` is the folder that holds Linux's `proc` and `sys`.
    """
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")  # version 1: one each
        folder = mount / path.lstrip("/")
        for group in (folder, *folder.parents):
            yield group
            if group == mount:
                break


def read_text(path: Path) -> str:
    """A file's text; empty without the file."""
    with suppress(OSError):
        return path.read_text()
    return ""
