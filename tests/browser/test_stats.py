"""The statistics of a session that are measured on the page."""

import pytest
from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]


def test_control_latency_forgets_superseded_controls(page: Page) -> None:
    """Controls 1 and 2 were superseded or dropped, so they expire when 3 is shown."""
    latencies_ms = page.evaluate(
        """async () => {
            const { ControlLatency } = await import("/static/session/stats.js");
            const latency = new ControlLatency();
            [1, 2, 3, 4].forEach((id) => latency.send(id, 100 * id));
            const latenciesMs = [];
            for (const ids of [[], [3], [1, 2], [4]]) {
                latency.show(ids, 1000);
                latenciesMs.push(latency.lastMs);
            }
            return latenciesMs;
        }"""
    )
    assert latencies_ms == [None, 700, 700, 600]
