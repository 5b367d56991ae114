"""The delay of keys on slow lines, in simulated time. `test_slow_line.py` has a real line."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from playwright.sync_api import Page

from tests.browser.fake_server import serve_page
from tests.browser.simulated_line import SimulatedWalk, Tap
from tests.transport.fake_world import FakeWorld

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

TWO_CHUNKS_S = 1.5
NUM_CHUNKS = 60
NUM_FIRST = 6  # of which the page learns how slow the line is


@pytest.fixture(scope="module")
def server() -> Iterator[SimpleNamespace]:
    with serve_page(FakeWorld(size=(112, 64))) as server:
        yield server


def walk(page: Page, megabits_per_s: float, *, decodes_video: bool = True) -> list[Tap]:
    """The changes of keys after the first chunks."""
    walk = SimulatedWalk(page, megabits_per_s=megabits_per_s, decodes_video=decodes_video)
    walk.run(NUM_CHUNKS)
    taps = [tap for tap in walk.taps if tap.chunk_index > NUM_FIRST]
    assert len(taps) >= 20
    return taps


@pytest.mark.parametrize("megabits_per_s", [10, 2, 1.5, 1, 0.5, 0.3, 0.1])
def test_no_key_waits_longer_than_two_chunks(page: Page, megabits_per_s: float) -> None:
    """Of a line that carries the lowest step. It needs 0.05 Mbit/s for the pocket world."""
    taps = walk(page, megabits_per_s)
    assert max(tap.delay_s for tap in taps) <= TWO_CHUNKS_S
    formats = {tap.step[0] for tap in taps}
    assert formats == {"jpeg" if megabits_per_s >= 2 else "h264"}


@pytest.mark.parametrize("megabits_per_s", [2, 1, 0.3])
def test_a_browser_without_h264_waits_no_longer(page: Page, megabits_per_s: float) -> None:
    taps = walk(page, megabits_per_s, decodes_video=False)
    assert max(tap.delay_s for tap in taps) <= TWO_CHUNKS_S
    assert {tap.step[0] for tap in taps} == {"jpeg" if megabits_per_s >= 2 else "webp"}


def test_a_line_that_does_not_carry_the_lowest_step_is_told_apart(page: Page) -> None:
    """The simulation can fail: this line needs longer for a chunk than its frames last."""
    assert max(tap.delay_s for tap in walk(page, 0.03)) > TWO_CHUNKS_S
