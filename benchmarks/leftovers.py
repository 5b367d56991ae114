"""What a server has left behind: shared memory, placement groups, and Ray's dashboard to ask."""

import json
import os
import re
import urllib.request
from typing import Any

from benchmarks.local_server import LocalServer


def shared_memory() -> set[str]:
    """Names of this machine's segments, except those that only other programs create.

    Those are a browser's segments, and the semaphores of Python's multiprocessing.
    """
    others = ("chromium", "sem.mp-")
    return {name for name in os.listdir("/dev/shm") if not any(part in name for part in others)}


def ask_dashboard(server: LocalServer, path: str, *, put: Any = None) -> Any:
    """The JSON answer of Ray's dashboard, to a GET or to a PUT of `put`; None if it is empty."""
    address = re.search(r"http://127\.0\.0\.1:\d+", server.log.read_text())
    assert address is not None, "the log names no dashboard"
    request = urllib.request.Request(f"{address[0]}{path}")
    if put is not None:
        request.method, request.data = "PUT", json.dumps(put).encode()
        request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or "null")


def placement_groups(server: LocalServer) -> list[str]:
    """The states of all placement groups that the cluster has had."""
    listed = ask_dashboard(server, "/api/v0/placement_groups?limit=1000&detail=False")
    return [group["state"] for group in listed["data"]["result"]["result"]]
