"""Which element has the focus, and which keys it takes from the walk."""

import pytest
from playwright.sync_api import Page

from tests.browser.scripted.world import ScriptedWorld

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("focus")]


def held(page: Page) -> list[str]:
    keys: list[str] = page.evaluate("lingbot.stats.held")
    return keys


def held_by(page: Page, key: str) -> list[str]:
    """The keys that the page holds while this one is down."""
    page.keyboard.down(key)
    keys = held(page)
    page.keyboard.up(key)
    return keys


def focused(page: Page) -> str:
    name: str = page.evaluate("document.activeElement.id")
    return name


def open_settings(page: Page) -> None:
    """Open the panel, and choose a format whose quality and width can be chosen."""
    page.click("[popovertarget=settings]")
    page.select_option("#live-format", "jpeg")


def test_the_world_has_the_focus_from_the_start_of_a_session(page: Page) -> None:
    world = ScriptedWorld(page)
    page.focus("#enter")
    page.keyboard.press("Enter")
    world.wait_for_init(1)
    assert focused(page) == "world"
    world.open()
    assert focused(page) == "world"
    assert held_by(page, "w") == ["w"]
    page.keyboard.press("Escape")
    assert focused(page) == "enter"


def test_game_keys_walk_while_a_list_or_the_slider_has_the_focus(
    page: Page, world: ScriptedWorld
) -> None:
    open_settings(page)
    for control in ("live-format", "live-quality", "live-width"):
        page.focus(f"#{control}")
        value = page.input_value(f"#{control}")
        for key in "wasdijkl":
            assert held_by(page, key) == [key], control
        page.keyboard.press("r")  # would choose "raw"
        page.wait_for_selector("#record[aria-pressed=true]")
        page.keyboard.press("r")
        assert page.input_value(f"#{control}") == value, "the control took a game key, too"
        assert focused(page) == control
    assert len(world.events("output")) == 1


def test_game_keys_walk_while_a_button_has_the_focus(page: Page, world: ScriptedWorld) -> None:
    page.focus("#record")
    assert held_by(page, "w") == ["w"]
    assert held_by(page, "ArrowLeft") == ["j"]


def test_a_control_that_the_keyboard_reaches_takes_arrows_until_it_is_left(
    page: Page, world: ScriptedWorld
) -> None:
    open_settings(page)
    page.focus("#live-quality")
    quality = int(page.input_value("#live-quality"))
    assert held_by(page, "ArrowLeft") == []
    assert held_by(page, "ArrowLeft") == []
    assert int(page.input_value("#live-quality")) == quality - 2
    assert focused(page) == "live-quality", "a second arrow would have looked"
    page.keyboard.press("Escape")  # closes the panel
    assert held_by(page, "ArrowLeft") == ["j"]


def test_a_choice_by_pointer_gives_the_keyboard_back_to_the_world(
    page: Page, world: ScriptedWorld
) -> None:
    open_settings(page)
    page.locator("#live-quality").click(position={"x": 20, "y": 8})
    assert int(page.input_value("#live-quality")) < 50
    assert focused(page) == "world"
    before = page.input_value("#live-quality")
    assert held_by(page, "ArrowRight") == ["l"]
    assert page.input_value("#live-quality") == before
    page.locator("#live-format").dispatch_event("pointerdown")
    page.select_option("#live-format", "webp")  # the list itself is not part of the page
    assert focused(page) == "world"
    world.wait_for_event("output", 3)


def test_a_text_field_takes_every_key_and_escape_leaves_it(
    page: Page, world: ScriptedWorld
) -> None:
    page.fill("#live-prompt", "")
    page.keyboard.type("wide 84")
    page.keyboard.press("ArrowLeft")
    assert held(page) == []
    assert page.input_value("#live-prompt") == "wide 84"
    page.keyboard.press("Escape")
    assert focused(page) == "world"
    assert page.evaluate("lingbot.state") == "playing"


def test_a_screen_reader_walks_a_step_by_a_click(page: Page, world: ScriptedWorld) -> None:
    click = "button => { button.click(); return lingbot.stats.held; }"  # without a pointer
    assert page.locator("[data-key=w]").evaluate(click) == ["w"]
    page.wait_for_function("lingbot.stats.held.length === 0")


@pytest.mark.parametrize(("code", "key"), [("8", "i"), ("4", "j"), ("2", "k"), ("6", "l")])
def test_the_number_pad_looks_like_arrows(
    page: Page, world: ScriptedWorld, code: str, key: str
) -> None:
    assert held_by(page, f"Numpad{code}") == [key]


def test_the_world_is_framed_while_tab_moves_the_focus_only(
    page: Page, world: ScriptedWorld
) -> None:
    outline = "getComputedStyle(document.getElementById('world')).outlineStyle"
    assert page.evaluate(outline) == "none"
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    assert focused(page) == "world"
    assert page.evaluate(outline) == "solid"
    page.keyboard.press("w")
    assert page.evaluate(outline) == "none"
