"""The page in a headless Chromium as a benchmark client, measured by its own statistics."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.chromium import MISSING, STEP_MS, VIEWPORT, find_chromium, launch
from benchmarks.page import enter
from benchmarks.percentiles import percentiles

Taps = Iterable[tuple[float, str]]  # seconds to wait, then the keys to hold
Stats = dict[str, Any]  # the page's `lingbot.stats`, and `at`: ms of its clock

# The page acknowledges a chunk when all its frames are decoded. Its statistics are recorded then.
# The page cannot turn pacing off, so an unpaced run adds one field to its init.
WATCH = """
window.watched = [];
const send = WebSocket.prototype.send;
WebSocket.prototype.send = function (data) {
    const message = MessagePack.decode(data);
    if (message.type === "ack") watched.push({ at: performance.now(), ...lingbot.stats });
    if (message.type === "init" && !PACED) {
        data = MessagePack.encode({ ...message, realtime_output_pacing: false });
    }
    send.call(this, data);
};
"""


def run_session(url: str, num_chunks: int, *, paced: bool, taps: Taps) -> list[Stats]:
    """Play one session in a new browser. Returns the page's statistics at each chunk's arrival.

    Raises SystemExit without Chromium or if the session ends early or stalls, RuntimeError if it
    does not open.
    """
    if (path := find_chromium()) is None:
        raise SystemExit(MISSING)
    with sync_playwright() as playwright:
        browser = launch(playwright, path)
        page = open_page(browser, url, paced=paced)
        enter(page)
        watched = hold_keys(page, num_chunks, taps)
        browser.close()
    return watched


def open_page(browser: Browser, url: str, *, paced: bool) -> Page:
    context = browser.new_context(viewport=VIEWPORT)
    context.set_default_timeout(STEP_MS)
    page = context.new_page()
    page.add_init_script(WATCH.replace("PACED", "true" if paced else "false"))
    page.goto(url)
    page.wait_for_selector("#enter:enabled")
    return page


def hold_keys(page: Page, num_chunks: int, taps: Taps) -> list[Stats]:
    """Hold the keys of `taps` until `num_chunks` have arrived. Returns the statistics of each."""
    held, arrived = "", -1
    for wait_s, keys in taps:
        page.wait_for_timeout(1000 * wait_s)
        if page.evaluate("lingbot.state") != "playing":
            raise SystemExit(f"the session ended early: {page.inner_text('#card')}")
        before, arrived = arrived, page.evaluate("watched.length")
        if arrived >= num_chunks:
            break
        if arrived == before:
            raise SystemExit(f"no chunk arrived in {wait_s:.1f} s, after {arrived}")
        for key in set(held) - set(keys):
            page.keyboard.up(key)
        for key in set(keys) - set(held):
            page.keyboard.down(key)
        held = keys
    watched: list[Stats] = page.evaluate("watched")
    return watched[:num_chunks]


def summarize_playout(watched: list[Stats], *, fps: int, left_out: int) -> dict[str, float]:
    """Metrics of all chunks but the first `left_out` (at least 1), with the page's frame counts.

    Period and latency are divided by a chunk's media time. Latency is the page's `chunkMs`: the
    server's time for denoising and decoding. A chunk is late if, during its period, the page had no
    frame to show when one was due.
    """
    kept = watched[left_out - 1 :]

    def rise(name: str) -> NDArray[np.float64]:
        return np.diff([float(stats[name]) for stats in kept])

    seconds = rise("at") / 1000
    media = rise("framesReceived") / fps
    period = seconds / media
    latency = np.array([stats["chunkMs"] for stats in kept[1:]]) / 1000 / media
    return {
        "chunks": len(period),
        **percentiles("period_over_media", period, digits=3),
        **percentiles("latency_over_media", latency, digits=3),
        "shown_frames_per_s": round(float(rise("framesShown").sum() / seconds.sum()), 1),
        "late_chunks": int(np.count_nonzero(rise("framesLate"))),
        "late_frames": int(rise("framesLate").sum()),
        "cut_frames": int(rise("framesCut").sum()),
        "dropped_frames": int(rise("framesDropped").sum()),
    }
