"""A sample of a running server: memory and descriptors by process, sessions, tracebacks."""

import json
import re
import time
import urllib.request
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import msgspec
import psutil
from msgspec import Struct

from benchmarks.local_server import LocalServer

MIB = 2**20
# All other processes of the cluster count as one role.
ROLES = (
    "Transport",
    "WorldGroup",
    "WorldRank",
    "ProxyActor",
    "ServeController",
    "raylet",
    "gcs_server",
)
OTHERS = "other processes"


class ProcessFigures(Struct, kw_only=True):
    """The sums over all processes of a role."""

    count: int = 0
    uss_mib: float = 0.0  # memory that only this process uses
    rss_mib: float = 0.0  # also counts the object store's pages
    descriptors: int = 0
    threads: int = 0

    def add(self, process: psutil.Process) -> None:
        """Count one more. Raises psutil.Error if it has ended."""
        memory, descriptors = process.memory_full_info(), process.num_fds()
        threads = process.num_threads()
        self.count += 1
        self.uss_mib = round(self.uss_mib + memory.uss / MIB, 1)
        self.rss_mib = round(self.rss_mib + memory.rss / MIB, 1)
        self.descriptors += descriptors
        self.threads += threads


class Sample(Struct, kw_only=True):
    minute: float  # since the first sample
    processes: dict[str, ProcessFigures]  # by role
    object_store_bytes: int
    sessions: int  # worlds that are leased, by Serve's count of WorldGroup's requests
    connections: int  # requests that Transport serves, sockets included
    tracebacks: int  # in the log


def take_sample(server: LocalServer, *, started_s: float) -> Sample:
    """`started_s` is the monotonic time of minute 0. Ray's own figures may be 10 s old."""
    processes: dict[str, ProcessFigures] = defaultdict(ProcessFigures)
    for process in server.processes():
        try:
            processes[role_of(process.cmdline())].add(process)
        except psutil.Error:
            continue  # it has ended
    metrics = read_metrics(server)
    return Sample(
        minute=round((time.monotonic() - started_s) / 60, 2),
        processes=dict(sorted(processes.items())),
        object_store_bytes=sum_of(metrics, "ray_object_store_used_memory"),
        sessions=ongoing(metrics, "WorldGroup"),
        connections=ongoing(metrics, "Transport"),
        tracebacks=count_tracebacks(server.log),
    )


def role_of(command: list[str]) -> str:
    """The role of a process by its command line."""
    name = Path(command[0]).name if command else ""
    # An actor's name, such as ray::ServeReplica:lingbot:Transport; it ends with .METHOD in a call.
    actor = re.match(r"ray::(?:ServeReplica:[^:]+:)?(\w+)", name)
    role = actor[1] if actor else name
    return role if role in ROLES else OTHERS


def read_metrics(server: LocalServer, *, timeout_s: float = 30.0) -> str:
    """All of Ray's metrics, as text.

    Ray's agents may listen some seconds later than the server. Raises OSError after `timeout_s`.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            (group,) = json.loads(server.metrics_targets.read_text())
            return "\n".join(map(_get_metrics, group["targets"]))
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.5)


def _get_metrics(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def sum_of(metrics: str, name: str, labels: str = "") -> int:
    """The sum of a metric over all its labels, or over those that match the pattern `labels`."""
    lines = re.findall(rf"^{name}{{[^}}]*{labels}[^}}]*}} (\S+)$", metrics, re.MULTILINE)
    return round(sum(map(float, lines)))


def ongoing(metrics: str, deployment: str) -> int:
    """The requests that the replicas of a deployment are serving."""
    return sum_of(metrics, "ray_serve_replica_processing_queries", f'deployment="{deployment}"')


def cpu_seconds(server: LocalServer) -> dict[str, float]:
    """The CPU seconds that the processes of each role have used so far."""
    spent: dict[str, float] = defaultdict(float)
    for process in server.processes():
        try:
            times = process.cpu_times()
            spent[role_of(process.cmdline())] += times.user + times.system
        except psutil.Error:
            continue  # it has ended
    return spent


def count_tracebacks(log: Path) -> int:
    return log.read_text(errors="replace").count("Traceback (most recent call last)")


def lease_ends(log: str) -> Counter[str]:
    """How many sessions of the groups have ended for each reason; "" counts those without one."""
    return Counter(re.findall(r"WorldRank.*session \w+ closed: ?(.*?)\s*$", log, re.MULTILINE))


def unended_sessions(log: str) -> set[str]:
    """The sessions that a line of a rank has opened and none has closed."""
    opened = set(re.findall(r"WorldRank.*session (\w+) opened", log))
    return opened - set(re.findall(r"WorldRank.*session (\w+) closed", log))


def to_row(first: Sample, early: Sample, last: Sample, role: str) -> dict[str, Any]:
    """A table's row about one role: memory in MiB, and descriptors."""
    at = [sample.processes.get(role, ProcessFigures()) for sample in (first, early, last)]
    return {
        "uss_first": at[0].uss_mib,
        "uss_early": at[1].uss_mib,
        "uss_last": at[2].uss_mib,
        "grown_since_early": round(at[2].uss_mib - at[1].uss_mib, 1),
        "rss_last": at[2].rss_mib,
        "descriptors": f"{at[0].descriptors} -> {at[2].descriptors}",
    }


def to_json(samples: list[Sample]) -> Any:
    return msgspec.to_builtins(samples)
