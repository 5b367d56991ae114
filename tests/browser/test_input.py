"""Keys held by keyboard, touch, gamepad and mouse, and their release."""

import pytest
from playwright.sync_api import CDPSession, Page

from benchmarks.page import enter
from tests.browser.driver import (
    actions_of,
    fake_visibility,
    is_quiet,
    listen_to_client,
    wait_for_actions,
)
from tests.browser.fake_server import keep_visible

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("server")]


def middle(page: Page, selector: str) -> tuple[float, float]:
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def touch(fingers: CDPSession, kind: str, *points: tuple[float, float]) -> None:
    """Move all fingers to these points. A finger is identified by its index."""
    touch_points = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(points)]
    fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touch_points})


def held(page: Page) -> list[str]:
    keys: list[str] = page.evaluate("lingbot.stats.held")
    return keys


def test_held_keys_reach_the_world_and_are_highlighted(page: Page) -> None:
    enter(page)
    page.keyboard.down("w")
    page.keyboard.down("ArrowRight")
    wait_for_actions(page, ["w", "l"])
    assert page.locator("[aria-pressed=true]").all_inner_texts() == ["W", "L\n→"]
    page.keyboard.up("w")
    wait_for_actions(page, ["l"])
    page.keyboard.up("ArrowRight")
    wait_for_actions(page, [])
    assert page.locator("[aria-pressed=true]").count() == 0


def test_the_key_pad_works_by_mouse(page: Page) -> None:
    enter(page)
    page.hover("[data-key=a]")
    page.mouse.down()
    wait_for_actions(page, ["a"])
    page.mouse.move(640, 300)
    assert page.evaluate("lingbot.stats.held") == ["a"], "a pointer that slips off still holds"
    page.mouse.up()
    wait_for_actions(page, [])


def test_blur_releases_the_keys(page: Page) -> None:
    enter(page)
    page.keyboard.down("s")
    wait_for_actions(page, ["s"])
    page.evaluate("window.dispatchEvent(new Event('blur'))")
    assert page.evaluate("lingbot.stats.held") == []
    wait_for_actions(page, [])


def test_a_key_held_before_the_start_counts_at_its_next_repeat(page: Page) -> None:
    """The second and later keydown events of a held key are marked as repeats."""
    sent = listen_to_client(page)
    page.keyboard.down("w")
    enter(page)
    page.keyboard.down("w")
    page.keyboard.down("w")
    wait_for_actions(page, ["w"])
    page.evaluate("window.dispatchEvent(new Event('blur'))")
    wait_for_actions(page, [])
    page.keyboard.down("w")
    page.keyboard.down("w")
    wait_for_actions(page, ["w"])
    page.keyboard.up("w")
    wait_for_actions(page, [])
    assert actions_of(sent) == [["w"], [], ["w"], []], "a repeat that changed nothing was sent"


def test_hidden_time_counts_neither_as_late_nor_as_control_latency(page: Page) -> None:
    """From a server that does not pause. Without acks it sends two chunks at most."""
    fake_visibility(page)
    keep_visible(page)
    enter(page)
    page.keyboard.down("w")
    page.wait_for_function("lingbot.stats.controlMs !== null")
    before = page.evaluate(
        """async () => {
            hide(true);
            const { chunkIndex } = lingbot.stats;
            await lingbot.lastFrame(); // the worker has heard of it
            return { ...lingbot.stats, chunkIndex };
        }"""
    )
    assert before["held"] == []
    page.wait_for_function(
        "until => lingbot.stats.chunkIndex >= until",
        arg=before["chunkIndex"] + 1,
        polling=100,
    )
    during = page.evaluate("lingbot.stats")
    assert during["framesShown"] <= before["framesShown"] + 1, "it was not hidden"
    after = page.evaluate(
        """async (during) => {
            hide(false);
            while (lingbot.stats.framesShown === during.framesShown) {
                await new Promise((resolve) => setTimeout(resolve));
            }
            return lingbot.stats;
        }""",
        during,
    )
    assert after["framesLate"] < before["framesLate"] + 12, "hidden time counted as late"
    page.wait_for_function(
        """num => {
            const { framesShown, framesDropped, framesCut } = lingbot.stats;
            return framesShown + framesDropped + framesCut >= num;
        }""",
        arg=during["framesReceived"],
    )
    # Hiding the page released the key. The latency of that release must not be measured.
    assert page.evaluate("lingbot.stats.controlMs") == before["controlMs"]


def test_typing_a_prompt_changes_the_world_and_holds_no_keys(page: Page) -> None:
    enter(page)
    page.fill("#live-prompt", "")
    page.keyboard.type("was dusk")
    assert page.input_value("#live-prompt") == "was dusk"
    assert page.evaluate("lingbot.stats.held") == []
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.id === 'world'")
    shown = page.evaluate("lingbot.stats.chunkIndex")
    page.wait_for_function("before => lingbot.stats.chunkIndex > before + 1", arg=shown)
    assert is_quiet(page), "the change was refused"
    page.keyboard.down("w")
    wait_for_actions(page, ["w"])


def test_hiding_the_tab_releases_the_keys_until_the_next_keydown(page: Page) -> None:
    fake_visibility(page)
    enter(page)
    page.keyboard.down("w")
    wait_for_actions(page, ["w"])
    page.evaluate("hide(true)")
    assert held(page) == []
    page.evaluate("hide(false)")
    page.keyboard.down("w")  # the keyboard repeats
    wait_for_actions(page, ["w"])


def test_each_finger_holds_one_key_until_it_is_lifted(page: Page) -> None:
    enter(page)
    fingers = page.context.new_cdp_session(page)
    forward, right = middle(page, "[data-key=w]"), middle(page, "[data-key=l]")
    touch(fingers, "touchStart", forward)
    touch(fingers, "touchStart", forward, right)
    wait_for_actions(page, ["w", "l"])
    touch(fingers, "touchMove", (640, 300), right)
    assert held(page) == ["w", "l"], "a pointer that slips off still holds"
    touch(fingers, "touchCancel")  # the system takes over, as for a call or a gesture
    page.wait_for_function("lingbot.stats.held.length === 0")
    wait_for_actions(page, [])


def test_a_gamepad_moves_and_looks(page: Page) -> None:
    page.evaluate(
        """() => {
            const buttons = Array.from({ length: 17 }, () => ({ pressed: false }));
            window.pad = { connected: true, axes: [0.2, 0, 0, 0], buttons };
            navigator.getGamepads = () => [null, window.pad];
        }"""
    )
    enter(page)
    page.evaluate("window.dispatchEvent(new Event('gamepadconnected'))")
    page.evaluate("pad.axes = [0.3, -0.9, 0.8, 0.1]")
    wait_for_actions(page, ["w", "l"])
    page.evaluate("window.dispatchEvent(new Event('blur'))")
    wait_for_actions(page, ["w", "l"])  # the window still has the focus, so the stick counts
    page.evaluate("pad.axes = [0, 0, 0, 0]; pad.buttons[13].pressed = true")
    wait_for_actions(page, ["s"])
    page.evaluate("document.hasFocus = () => false")
    page.wait_for_function("lingbot.stats.held.length === 0")
    page.evaluate("delete document.hasFocus")
    page.wait_for_function("lingbot.stats.held.join() === 's'")
    page.evaluate("pad.connected = false")
    page.wait_for_function("lingbot.stats.held.length === 0")
    page.keyboard.press("Escape")
    assert page.evaluate("lingbot.state") == "start"


def test_the_mouse_looks_while_the_pointer_is_locked(page: Page) -> None:
    sent = listen_to_client(page)
    enter(page)
    page.mouse.move(500, 300)
    page.mouse.move(600, 300)
    assert held(page) == [], "the pointer is not locked"
    page.click("#world")
    page.wait_for_function("document.pointerLockElement !== null")
    x, y = middle(page, "#world")  # the place of the click
    page.mouse.move(x - 200, y)
    page.wait_for_function("lingbot.stats.held.length === 0")  # the movement decays
    page.mouse.move(x - 200, y - 100)
    page.wait_for_function("lingbot.stats.held.length === 0")
    assert actions_of(sent)[-4:] == [["j"], [], ["i"], []]
    page.keyboard.press("Escape")
    page.wait_for_function("document.pointerLockElement === null")
    assert page.evaluate("lingbot.state") == "playing", "the first Esc only unlocks the pointer"
    page.keyboard.press("Escape")
    assert page.evaluate("lingbot.state") == "start"


def test_a_mouse_at_rest_releases_its_keys(page: Page) -> None:
    looked = page.evaluate(
        """async () => {
            const { Movement } = await import("/static/input/mouse.js");
            const movement = new Movement();
            movement.add(0, 5, 0);
            const little = movement.keys(0);
            movement.add(10, 4000, -30);
            const much = movement.keys(10);
            let rested = 10;
            while (movement.keys(rested).length > 0) rested += 1;
            return { little, much, rested };
        }"""
    )
    assert looked["little"] == []
    assert looked["much"] == ["l", "i"]
    assert 100 < looked["rested"] < 400
