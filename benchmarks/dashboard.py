"""Questions to the Ray dashboard of a local server: placement groups, objects, redeploys."""

import json
import re
import urllib.request
from typing import Any

from benchmarks.http_answer import answer_to
from benchmarks.local_server import LocalServer

APPLICATIONS = "/api/serve/applications/"  # a PUT of a Serve config deploys it


def ask_dashboard(server: LocalServer, path: str, *, put: Any = None) -> Any:
    """The JSON answer of Ray's dashboard, to a GET or to a PUT of `put`; None if it is empty."""
    address = re.search(r"http://127\.0\.0\.1:\d+", server.log.read_text())
    assert address is not None, "the log names no dashboard"
    return ask_json(f"{address[0]}{path}", put=put)


def ask_json(url: str, *, put: Any = None) -> Any:
    """The JSON answer to a GET, or to a PUT of `put`; None if it is empty. Raises OSError."""
    request = urllib.request.Request(url)
    if put is not None:
        request.method, request.data = "PUT", json.dumps(put).encode()
        request.add_header("content-type", "application/json")
    answer = answer_to(request)
    if answer.status >= 400:
        raise OSError(f"{url} answers {answer.status}: {answer.body[:500]!r}")
    return json.loads(answer.body or "null")


def placement_groups(server: LocalServer) -> list[str]:
    """The states of all placement groups that the cluster has had."""
    listed = ask_dashboard(server, "/api/v0/placement_groups?limit=1000&detail=False")
    return [group["state"] for group in listed["data"]["result"]["result"]]


def stored_bytes(server: LocalServer) -> int:
    """Bytes of the cluster's objects, as far as a process still holds a reference."""
    listed = ask_dashboard(server, "/api/v0/objects?limit=10000&detail=True")
    return sum(max(0, each["object_size"] or 0) for each in listed["data"]["result"]["result"])
