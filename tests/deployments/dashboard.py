"""Questions to the dashboard of a test's server."""

import json
import re
import urllib.request


def ask_dashboard(server, path, *, put=None):
    """The JSON answer of Ray's dashboard, to a GET or to a PUT of `put`; None if it is empty."""
    address = re.search(r"http://127\.0\.0\.1:\d+", server.log.read_text())
    request = urllib.request.Request(f"{address[0]}{path}")
    if put is not None:
        request.method, request.data = "PUT", json.dumps(put).encode()
        request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or "null")


def stored_bytes(server):
    """Bytes of the cluster's objects, as far as a process still holds a reference."""
    listed = ask_dashboard(server, "/api/v0/objects?limit=10000&detail=True")
    return sum(max(0, each["object_size"] or 0) for each in listed["data"]["result"]["result"])
