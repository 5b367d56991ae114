"""The delay of keys on slow lines, in simulated time. `test_slow_line.py` has a real line."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import get_args

import pytest
from playwright.sync_api import Page

from tests.browser.fake_server import serve_page
from tests.browser.simulated_line import SimulatedWalk, Tap
from tests.transport.fake_world import FakeWorld
from transport.wire.messages import Format

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]

TWO_CHUNKS_S = 1.5
SECONDS = 60
NUM_FIRST = 6  # of which the page learns how slow the line is


@pytest.fixture(scope="module")
def server() -> Iterator[SimpleNamespace]:
    with serve_page(FakeWorld(size=(112, 64))) as server:
        yield server


def walk(
    page: Page, megabits_per_s: float, *, decodes_video: bool = True, encode_s: float = 0.0
) -> list[Tap]:
    """The changes of keys after the first chunks."""
    walk = SimulatedWalk(
        page, megabits_per_s=megabits_per_s, decodes_video=decodes_video, encode_s=encode_s
    )
    walk.run(SECONDS)
    taps = [tap for tap in walk.taps if tap.chunk_index > NUM_FIRST]
    assert len(taps) >= 20
    return taps


@pytest.mark.parametrize("megabits_per_s", [10, 2, 1.5, 1, 0.5, 0.3, 0.1])
def test_no_key_waits_longer_than_two_chunks(page: Page, megabits_per_s: float) -> None:
    """On a line that carries the lowest step. At 0.06 Mbit/s keys wait up to 1.8 s."""
    taps = walk(page, megabits_per_s)
    assert max(tap.delay_s for tap in taps) <= TWO_CHUNKS_S
    formats = {tap.step[0] for tap in taps}
    assert formats == {"jpeg" if megabits_per_s >= 2 else "h264"}


@pytest.mark.parametrize(
    ("megabits_per_s", "encode_s"), [(1, 0.01), (0.5, 0.025), (0.3, 0.025), (0.1, 0.025)]
)
def test_a_slow_encoder_hides_no_slow_line(
    page: Page, megabits_per_s: float, encode_s: float
) -> None:
    """With 0.025 s a frame, 1 Mbit/s is not told from a faster line: trials of JPEG take 1.7 s."""
    taps = walk(page, megabits_per_s, encode_s=encode_s)
    assert max(tap.delay_s for tap in taps) <= TWO_CHUNKS_S


@pytest.mark.parametrize("megabits_per_s", [2, 1, 0.3])
def test_a_browser_without_h264_waits_no_longer(page: Page, megabits_per_s: float) -> None:
    taps = walk(page, megabits_per_s, decodes_video=False)
    assert max(tap.delay_s for tap in taps) <= TWO_CHUNKS_S
    assert {tap.step[0] for tap in taps} == {"jpeg" if megabits_per_s >= 2 else "webp"}


def test_a_line_that_does_not_carry_the_lowest_step_is_told_apart(page: Page) -> None:
    """The simulation can fail: this line needs longer for a chunk than its frames last."""
    assert max(tap.delay_s for tap in walk(page, 0.03)) > TWO_CHUNKS_S


@pytest.mark.parametrize("megabits_per_s", [10, 1, 0.3])
def test_the_automatic_format_is_no_slower_than_any_fixed_one(
    page: Page, megabits_per_s: float
) -> None:
    """Prints the table of `docs/benchmarks.md`. Taps of the first chunks count, too."""
    medians, frames = {}, {}
    for name in (None, *get_args(Format)):
        walk = SimulatedWalk(page, megabits_per_s=megabits_per_s, fixed=name)
        walk.run(SECONDS)
        delays_s = sorted(tap.delay_s for tap in walk.taps)
        medians[name], frames[name] = delays_s[len(delays_s) // 2], walk.frames_per_s
        print(f"{megabits_per_s} Mbit/s, {name or 'auto'}: {frames[name]:.1f} frames/s,", end=" ")
        print(f"{medians[name]:.2f} s median, {delays_s[-1]:.2f} s at most")
    assert medians[None] <= min(medians.values()) + 0.1
    assert frames[None] >= max(frames.values()) - 0.5
