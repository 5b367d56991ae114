"""Twenty sockets that send `init` and leave 0.3 s later, beside a walker and before a newcomer."""

import asyncio
import time

import pytest

from benchmarks.leaving import measure, shared_server
from benchmarks.server_sample import unended_sessions

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(600),
]


def test_sockets_that_leave_at_once_hold_up_no_newcomer_and_no_walker():
    """Without the removal of their opens, the twenty would take the time of twenty openings.

    `benchmarks.leaving` measures how long a newcomer waits. The bounds here are those of a client
    that waits for all of them.
    """
    with shared_server() as server:
        found = asyncio.run(asyncio.wait_for(measure(server, rounds=5), 300))
        assert found["after_s"] < 5 * found["quiet_s"]
        assert found["gap_s_max"] < 5 * found["quiet_s"]
        while unended_sessions(server.log.read_text()):
            time.sleep(0.1)  # the test's timeout ends a wait for a session that stays
