"""Write docs/page.png, the README's screenshot of the page, and docs/phone.png, of a touch screen.

make serve
.venv/bin/python -m docs.screenshot
"""

import argparse
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.chromium import MISSING, STEP_MS, VIEWPORT, find_chromium, launch
from benchmarks.page import enter

FOLDER = Path(__file__).parent
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}
SCREENS: dict[str, dict[str, Any]] = {"page": {"viewport": VIEWPORT}, "phone": PHONE}
NUM_CHUNKS = 6  # after the first ones, which arrive faster than they are shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    if (chromium := find_chromium()) is None:
        raise SystemExit(MISSING)
    with sync_playwright() as playwright:
        browser = launch(playwright, chromium)
        for name, screen in SCREENS.items():
            take(browser, options.url, options.folder / f"{name}.png", **screen)
        browser.close()


def take(browser: Browser, url: str, path: Path, **screen: Any) -> None:
    context = browser.new_context(**screen)
    context.set_default_timeout(STEP_MS)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("#enter:enabled")
    move_forward(page)
    page.screenshot(path=path)
    context.close()


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
