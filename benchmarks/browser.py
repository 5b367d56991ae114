"""A client that is the page itself, in a headless Chromium, and what its own statistics say."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.chromium import MISSING, STEP_MS, VIEWPORT, find_chromium, launch
from tests.browser.stage import enter

Taps = Iterable[tuple[float, str]]  # seconds to wait, then the keys to hold
Stats = dict[str, Any]  # the page's `lingbot.stats`, and `at`: ms of its clock

# The page acknowledges a chunk when all its frames are decoded: its statistics are kept then. It
# never asks not to be paced, so for that one field is added to its init.
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


def walk_page(url: str, num_chunks: int, *, paced: bool, taps: Taps) -> list[Stats]:
    """The page's statistics when each chunk had arrived, in a browser of its own.

    Raises SystemExit where there is no Chromium, or the walk ends early or stands still.
    """
    if (path := find_chromium()) is None:
        raise SystemExit(MISSING)
    with sync_playwright() as playwright:
        browser = launch(playwright, path)
        page = open_page(browser, url, paced=paced)
        enter(page)
        watched = walk(page, num_chunks, taps)
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


def walk(page: Page, num_chunks: int, taps: Taps) -> list[Stats]:
    held, arrived = "", -1
    for wait_s, keys in taps:
        page.wait_for_timeout(1000 * wait_s)
        if page.evaluate("lingbot.state") != "playing":
            raise SystemExit(f"the walk ended early: {page.inner_text('#card')}")
        before, arrived = arrived, page.evaluate("watched.length")
        if arrived >= num_chunks:
            break
        if arrived == before:
            raise SystemExit(f"no chunk came in {wait_s:.1f} s, after {arrived}")
        for key in set(held) - set(keys):
            page.keyboard.up(key)
        for key in set(keys) - set(held):
            page.keyboard.down(key)
        held = keys
    watched: list[Stats] = page.evaluate("watched")
    return watched[:num_chunks]


def summarize(watched: list[Stats], *, fps: int, left_out: int) -> dict[str, float]:
    """Figures of all chunks but the first `left_out`, one at least; frames as the page counts them.

    Period and latency (the page's `chunkMs`: denoising and decoding, by the server) are over a
    chunk's media time. A late chunk is one during whose period the page had no frame when it was
    due.
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
        "period_over_media_p50": round(float(np.percentile(period, 50)), 3),
        "period_over_media_p95": round(float(np.percentile(period, 95)), 3),
        "latency_over_media_p50": round(float(np.percentile(latency, 50)), 3),
        "latency_over_media_p95": round(float(np.percentile(latency, 95)), 3),
        "shown_frames_per_s": round(float(rise("framesShown").sum() / seconds.sum()), 1),
        "late_chunks": int(np.count_nonzero(rise("framesLate"))),
        "late_frames": int(rise("framesLate").sum()),
        "cut_frames": int(rise("framesCut").sum()),
        "dropped_frames": int(rise("framesDropped").sum()),
    }
