"""Keyboards that are no QWERTY ones: the position of a key counts, and else its letter."""

import pytest
from playwright.sync_api import Page

from tests.browser.scripted.world import ScriptedWorld

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("focus")]

# A keyboard of Playwright is a QWERTY one.
PRESS = """([kind, code, key]) => {
    const options = { code, key, bubbles: true, cancelable: true };
    document.activeElement.dispatchEvent(new KeyboardEvent(kind, options));
    return lingbot.stats.held;
}"""


def key_down(page: Page, code: str, key: str) -> list[str]:
    """Press a key of this position that types `key`. Returns the keys that the page holds."""
    held: list[str] = page.evaluate(PRESS, ["keydown", code, key])
    return held


def key_up(page: Page, code: str, key: str) -> list[str]:
    held: list[str] = page.evaluate(PRESS, ["keyup", code, key])
    return held


# By layout: what has the code of a game key follows it, and what has another one its letter.
AZERTY = {"KeyW z": "w", "KeyA q": "a", "KeyZ w": "w", "KeyQ a": "a", "KeyS s": "s"}
DVORAK = {"KeyD e": "d", "KeyK t": "k", "Comma w": "w", "KeyH d": "d", "KeyP l": "l"}
OTHERS = {"KeyW ц": "w", "Comma W": "w", " d": "d", "KeyS r": "s", "KeyQ q": None}


@pytest.mark.parametrize("layout", [AZERTY, DVORAK, OTHERS], ids=["azerty", "dvorak", "others"])
def test_a_key_walks_by_its_position_or_by_its_letter(
    page: Page, world: ScriptedWorld, layout: dict[str, str | None]
) -> None:
    for pressed, expected in layout.items():
        code, key = pressed.split(" ")
        assert key_down(page, code, key) == ([expected] if expected else []), pressed
        assert key_up(page, code, key) == [], pressed
    assert page.get_attribute("#record", "aria-pressed") == "false", "a game key is no shortcut"


def test_a_held_key_stays_what_it_was_until_it_is_released(
    page: Page, world: ScriptedWorld
) -> None:
    """The layout changes while the key repeats."""
    assert key_down(page, "KeyZ", "w") == ["w"]
    assert key_down(page, "KeyZ", "z") == ["w"]
    assert key_down(page, "KeyQ", "a") == ["w", "a"]
    assert key_down(page, "KeyQ", "d") == ["w", "a"]
    assert key_up(page, "KeyZ", "z") == ["a"]
    assert key_up(page, "KeyQ", "q") == []
    assert key_down(page, "KeyQ", "d") == ["d"]


@pytest.mark.parametrize("pressed", ["KeyR r", "KeyO r", "KeyR к"], ids=str)
def test_a_shortcut_goes_by_its_letter(page: Page, world: ScriptedWorld, pressed: str) -> None:
    """As the hints name it. Where a keyboard has no Latin letters, its position counts."""
    code, key = pressed.split(" ")
    assert key_down(page, code, key) == []
    assert page.get_attribute("#record", "aria-pressed") == "true"
