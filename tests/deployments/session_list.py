"""The sessions of all groups, as an operator sees them, in tests with the token `s3cret`."""

import json
import urllib.request

from benchmarks.http_answer import answer_to
from tests.waiting import wait_until


def all_sessions(server):
    """Once all groups answer: one may be late, or have just died."""
    request = urllib.request.Request(
        f"{server.http}/v1/sessions", headers={"authorization": "Bearer s3cret"}
    )

    def complete():
        found = json.loads(answer_to(request).body)
        return found["complete"] and found

    return wait_until(complete, every_s=0.2)["sessions"]
