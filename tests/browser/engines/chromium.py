"""Chromium, driven by Playwright, as in the other tests of the page."""

from typing import Any

from playwright.sync_api import Browser

from benchmarks.chromium import STEP_MS
from tests.browser.engines.engine import ESCAPE, SIZE

NAMES = {ESCAPE: "Escape"}  # Playwright's


class Chromium:
    def __init__(self, browser: Browser) -> None:
        width, height = SIZE
        context = browser.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(STEP_MS)
        self._page = context.new_page()

    def navigate(self, url: str) -> None:
        self._page.goto(url)

    def evaluate(self, expression: str) -> str:
        return str(self._page.evaluate(expression))

    def perform_actions(self, actions: list[dict[str, Any]]) -> None:
        mouse, keyboard = self._page.mouse, self._page.keyboard
        for action in (action for source in actions for action in source["actions"]):
            key = NAMES.get(action.get("value", ""), action.get("value", ""))
            match action["type"]:
                case "keyDown":
                    keyboard.down(key)
                case "keyUp":
                    keyboard.up(key)
                case "pointerMove":
                    mouse.move(action["x"], action["y"])
                case "pointerDown":
                    mouse.down()
                case "pointerUp":
                    mouse.up()

    def set_file(self, selector: str, path: str) -> None:
        self._page.set_input_files(selector, path)

    def resize(self, width: int, height: int) -> None:
        self._page.set_viewport_size({"width": width, "height": height})

    def screenshot(self) -> bytes:
        return self._page.screenshot()

    def close(self) -> None:
        self._page.context.close()
