"""A flood of handshakes beside a walker, on the shared server."""

import asyncio

import pytest

from benchmarks.handshakes import PERIOD_S, measure

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.xdist_group("server"),
]


def test_a_thousand_handshakes_a_minute_do_not_stop_a_walker(server):
    """The bounds leave room for a machine that stands still for some seconds."""
    found = asyncio.run(measure(server, per_minute=1000, seconds=15))
    assert found["handshakes_per_minute"] > 700
    assert found["handshakes_failed"] == 0
    assert found["flood"]["chunks"] > 12
    assert found["flood"]["gap_s_p95"] <= 4 * PERIOD_S  # the benchmark measures it
    assert found["flood"]["gap_s_max"] <= 10
