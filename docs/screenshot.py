"""Write docs/page.png, the README's screenshot of the page.

make serve
.venv/bin/python -m docs.screenshot
"""

import argparse
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from benchmarks.chromium import MISSING, STEP_MS, VIEWPORT, find_chromium, launch
from benchmarks.page import enter

PATH = Path(__file__).with_name("page.png")
NUM_CHUNKS = 6  # after the first ones, which arrive faster than they are shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--output", type=Path, default=PATH)
    options = parser.parse_args()
    if (chromium := find_chromium()) is None:
        raise SystemExit(MISSING)
    with sync_playwright() as playwright:
        browser = launch(playwright, chromium)
        page = browser.new_page(viewport=VIEWPORT)
        page.set_default_timeout(STEP_MS)
        page.goto(options.url)
        page.wait_for_selector("#enter:enabled")
        move_forward(page)
        page.screenshot(path=options.output)
        browser.close()


def move_forward(page: Page) -> None:
    """Enter a world and hold W until all statistics are steady."""
    enter(page)
    page.keyboard.down("w")
    page.wait_for_function("lingbot.stats.applied.actions.every(held => held.join() === 'w')")
    first = page.evaluate("lingbot.stats.chunkIndex")
    page.wait_for_function("until => lingbot.stats.chunkIndex >= until", arg=first + NUM_CHUNKS)
    page.wait_for_function("lingbot.stats.controlMs !== null")


if __name__ == "__main__":
    main()
