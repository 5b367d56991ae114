"""What a test of the page needs of a browser, whatever protocol drives it."""

import json
import time
from typing import Any, Protocol

STEP_S = 120.0  # limit of each step on a page; generous, for busy machines
SIZE = (1280, 800)
ESCAPE = "\ue00c"  # by WebDriver's code for keys without a character


class Connection(Protocol):
    """A browser with one tab."""

    def navigate(self, url: str) -> None: ...

    def evaluate(self, expression: str) -> str:
        """The string that a promise resolves to."""

    def perform_actions(self, actions: list[dict[str, Any]]) -> None:
        """Perform input actions of WebDriver: the list of sources, each with its actions."""

    def set_file(self, selector: str, path: str) -> None: ...

    def resize(self, width: int, height: int) -> None:
        """Give the page this many CSS pixels."""

    def screenshot(self) -> bytes:
        """A PNG of what the tab shows."""

    def close(self) -> None: ...


class Engine:
    """Steps on a page, with input as a person gives it."""

    def __init__(self, name: str, connection: Connection) -> None:
        self.name = name
        self._connection = connection
        self.navigate = connection.navigate
        self.set_file = connection.set_file
        self.resize = connection.resize
        self.screenshot = connection.screenshot

    def evaluate(self, function: str, *arguments: Any) -> Any:
        """What a JavaScript function, or the promise that it returns, gives."""
        call = f"({function})(...{json.dumps(arguments)})"
        text = self._connection.evaluate(f"(async () => JSON.stringify((await {call}) ?? null))()")
        return json.loads(text)

    def wait_for(self, function: str, *arguments: Any, limit_s: float = STEP_S) -> Any:
        """The first true value of the function. Raises TimeoutError without one."""
        deadline_s = time.monotonic() + limit_s
        while not (value := self.evaluate(function, *arguments)):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{self.name}: never true: {function} {arguments}")
            time.sleep(0.1)
        return value

    def press(self, key: str) -> None:
        self._keys({"type": "keyDown", "value": key}, {"type": "keyUp", "value": key})

    def hold(self, key: str) -> None:
        self._keys({"type": "keyDown", "value": key})

    def release(self, key: str) -> None:
        self._keys({"type": "keyUp", "value": key})

    def click(self, selector: str) -> None:
        """Click the middle of an element, once it is there, enabled and at rest."""
        middle = """selector => {
            const element = document.querySelector(selector);
            if (element === null || element.disabled) return null;
            element.scrollIntoView({ block: "nearest" });
            const { x, y, width, height } = element.getBoundingClientRect();
            return width > 0 && [Math.round(x + width / 2), Math.round(y + height / 2)];
        }"""
        place = None
        while place != (newest := self.wait_for(middle, selector)):
            place = newest
        x, y = newest
        moves = [
            {"type": "pointerMove", "x": x, "y": y, "duration": 0},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        self._connection.perform_actions([{"type": "pointer", "id": "mouse", "actions": moves}])

    def choose(self, selector: str, value: str) -> None:
        """Choose an option of a <select>. Its menu is the system's, which no protocol reaches."""
        self.evaluate(
            """(selector, value) => {
                const select = document.querySelector(selector);
                select.value = value;
                select.dispatchEvent(new Event("change", { bubbles: true }));
            }""",
            selector,
            value,
        )

    def _keys(self, *actions: dict[str, Any]) -> None:
        self._connection.perform_actions([{"type": "key", "id": "keyboard", "actions": [*actions]}])
