"""The page on slow lines, automatic format against each fixed one: `python -m benchmarks.lines`.

Starts a server of the shipped config, or takes a running one by --url. Between it and the page in
a headless Chromium is a line of 10, 1 and 0.3 Mbit/s with a delay of 100 ms in each direction.
Keys are changed every 1 to 2.5 s, for a minute from the first frame on, the same in each run.

frames_per_s: frames shown. control_ms: from a key to the first frame that follows it; a key whose
frames did not come within the run is not counted, so that `keys` is small where the delay is long.
`encoding` arrives at the end. `state` is that of the page then; a lost socket ends a walk.
Prints a table, then one JSON line with the machine's load.
"""

import argparse
import itertools
import os
import time
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.chromium import MISSING, STEP_MS, VIEWPORT, find_chromium, launch
from benchmarks.local_server import server_at
from benchmarks.page import enter
from benchmarks.printing import Row, print_json, print_table
from benchmarks.realtime import random_taps
from benchmarks.throttle import slow_line

LINES = (10.0, 1.0, 0.3)  # Mbit/s
FORMATS = ("auto", "jpeg", "webp", "h264", "delta-zstd", "raw")
TAP_EVERY_S = (1.0, 2.5)
PAGE_S = 180.0  # the page itself comes over the line

# Every delay from a key to its first frame, as the page measures it.
WATCH = """
window.delays = [];
const watch = () => {
    const delay = window.lingbot?.stats?.controlMs ?? null;
    if (delay !== null && delay !== delays.at(-1)) delays.push(delay);
    requestAnimationFrame(watch);
};
requestAnimationFrame(watch);
"""


def measure(browser: Browser, address: str, name: str, seconds: float) -> Row:
    """One walk. Raises RuntimeError if the world does not open."""
    context = browser.new_context(viewport=VIEWPORT)
    context.set_default_timeout(max(STEP_MS, 1000 * PAGE_S))
    page = context.new_page()
    page.add_init_script(WATCH)
    page.goto(address)
    page.wait_for_selector("#enter:enabled")
    page.click("summary")
    page.select_option("#format", name)
    enter(page)
    started_s = time.monotonic()
    before = page.evaluate("lingbot.stats.framesShown")
    walk(page, started_s + seconds)
    took_s = time.monotonic() - started_s
    stats: dict[str, Any] = page.evaluate("lingbot.stats")
    delays = page.evaluate("delays")
    row: Row = {
        "frames_per_s": round((stats["framesShown"] - before) / took_s, 1),
        "control_ms_p50": round(float(np.percentile(delays, 50))) if delays else None,
        "control_ms_p95": round(float(np.percentile(delays, 95))) if delays else None,
        "control_ms_max": round(max(delays)) if delays else None,
        "keys": len(delays),
        "encoding": stats["codec"],
        "state": page.evaluate("lingbot.state"),
        "said": page.text_content("#speed-text"),
    }
    context.close()
    return row


def walk(page: Page, until_s: float) -> None:
    """Changes the held keys until then, or until the world does not play any more."""
    held = ""
    for wait_s, keys in random_taps(TAP_EVERY_S):
        left_s = until_s - time.monotonic()
        page.wait_for_timeout(1000 * max(0.0, min(wait_s, left_s)))
        if left_s <= wait_s or page.evaluate("lingbot.state") != "playing":
            return
        for key in set(held) - set(keys):
            page.keyboard.up(key)
        for key in set(keys) - set(held):
            page.keyboard.down(key)
        held = keys


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each walk")
    parser.add_argument("--lines", type=float, nargs="+", default=LINES, help="Mbit/s")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--url", help="a running server on this machine")
    options = parser.parse_args()
    if (path := find_chromium()) is None:
        raise SystemExit(MISSING)
    rows: dict[str, Row] = {}
    with server_at(options.url) as url, sync_playwright() as playwright:
        browser = launch(playwright, path)
        port = urlsplit(url).port
        assert port is not None
        for rate, name in itertools.product(options.lines, options.formats):
            with slow_line(port, megabits_per_s=rate) as (address, _):
                figures = measure(browser, address, name, options.seconds)
            rows[f"{rate:g} Mbit/s, {name}"] = figures
            print(f"{rate:g} Mbit/s, {name}", figures, flush=True)
        browser.close()
    shown = {name: {**row, "said": ""} for name, row in rows.items()}
    print_table("the page on slow lines", shown)
    load = round(os.getloadavg()[0], 1)
    print_json("lines", {"seconds": options.seconds, "load": load, "rows": rows})


if __name__ == "__main__":
    main()
