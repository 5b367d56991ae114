"""A first visit to the page, by the page's own clock: `python -m benchmarks.first_visit`.

Each visit has an empty cache. It enters as soon as it can, and holds W at the first frame.
Columns, in ms: from the page's load until a world can be entered (enter), and until the first frame
is shown (frame); from the key until the first frame that follows it (key).
Prints a table, then one JSON line.
"""

import argparse
import os
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from benchmarks.chromium import MISSING, STEP_MS, VIEWPORT, find_chromium, launch
from benchmarks.local_server import server_at
from benchmarks.percentiles import percentiles
from benchmarks.printing import print_json, print_table

# The page's clock starts with its navigation. A worker's message and a timer of 4 ms are the error.
VISIT = """
const until = async (isThere) => {
    while (!isThere()) await new Promise((resolve) => setTimeout(resolve));
    return performance.now();
};
window.visit = (async () => {
    const ready = await until(() => document.querySelector("#enter:enabled"));
    document.querySelector("#enter").click();
    const shown = await until(() => lingbot.stats?.framesShown > 0 || lingbot.state === "ended");
    if (lingbot.state === "ended") throw new Error(document.querySelector("#card").innerText);
    window.dispatchEvent(new KeyboardEvent("keydown", { code: "KeyW", key: "w" }));
    await until(() => lingbot.stats.controlMs !== null);
    return { enter: ready, frame: shown, key: lingbot.stats.controlMs };
})();
"""


def visit(browser: Browser, url: str) -> dict[str, float]:
    """The ms of one visit."""
    context = browser.new_context(viewport=VIEWPORT)
    context.set_default_timeout(STEP_MS)
    page = context.new_page()
    page.add_init_script(VISIT)
    page.goto(url)
    times: dict[str, float] = page.evaluate("visit")
    context.close()
    return times


def measure(url: str, num_visits: int) -> list[dict[str, float]]:
    if (chromium := find_chromium()) is None:
        raise SystemExit(MISSING)
    with sync_playwright() as playwright:
        browser = launch(playwright, chromium)
        visits = [visit(browser, url) for _ in range(num_visits)]
        browser.close()
    return visits


def summarize(visits: list[dict[str, float]]) -> dict[str, Any]:
    figures: dict[str, Any] = {"visits": len(visits)}
    for name in visits[0]:
        figures |= percentiles(f"{name}_ms", [times[name] for times in visits])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="of a running server; without it, one is started")
    parser.add_argument("--visits", type=int, default=9)
    options = parser.parse_args()
    with server_at(options.url) as url:
        figures = summarize(measure(url, options.visits))
    print_table("a first visit", {"chromium": figures})
    load = round(os.getloadavg()[0], 1)
    print_json("first_visit", figures | {"load": load})


if __name__ == "__main__":
    main()
