"""What a person holds, by keyboard, touch, gamepad and mouse, and what lets go of it."""

import pytest
from playwright.sync_api import CDPSession, Page

from tests.browser.stage import enter, listen_to_client, wait_for_actions

pytestmark = pytest.mark.browser


def hide_at_will(page: Page) -> None:
    """Playwright keeps every tab visible: what a hidden one sees is played to this one."""
    page.evaluate(
        """() => {
            let hidden = false;
            Object.defineProperty(document, "hidden", { get: () => hidden });
            window.hide = (value) => {
                hidden = value;
                document.dispatchEvent(new Event("visibilitychange"));
            };
        }"""
    )


def middle(page: Page, selector: str) -> tuple[float, float]:
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def touch(fingers: CDPSession, kind: str, *points: tuple[float, float]) -> None:
    """Where all fingers are from now on; each keeps its place in the list."""
    places = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(points)]
    fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})


def held(page: Page) -> list[str]:
    keys: list[str] = page.evaluate("lingbot.stats.held")
    return keys


def test_held_keys_reach_the_world_and_light_up(page: Page) -> None:
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


def test_the_pad_walks_by_mouse(page: Page) -> None:
    enter(page)
    page.hover("[data-key=a]")
    page.mouse.down()
    wait_for_actions(page, ["a"])
    page.mouse.move(640, 300)
    assert page.evaluate("lingbot.stats.held") == ["a"], "a slipping finger still holds"
    page.mouse.up()
    wait_for_actions(page, [])


def test_blur_releases_the_keys(page: Page) -> None:
    enter(page)
    page.keyboard.down("s")
    wait_for_actions(page, ["s"])
    page.evaluate("window.dispatchEvent(new Event('blur'))")
    assert page.evaluate("lingbot.stats.held") == []
    wait_for_actions(page, [])


def test_a_key_held_all_along_walks_once_it_can(page: Page) -> None:
    """The keyboard repeats: the second keydown and all later ones of a held key say so."""
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
    events = [message["payload"] for message in sent if message["type"] == "event"]
    held = [event["transitions"][0]["actions"] for event in events]
    assert held == [["w"], [], ["w"], []], "a repeat that changed nothing was sent"


@pytest.mark.parametrize("num_chunks", [2, 6])  # 6 are more than the page keeps
def test_time_in_a_hidden_tab_is_neither_late_nor_a_controls(page: Page, num_chunks: int) -> None:
    hide_at_will(page)
    enter(page)
    page.keyboard.down("w")
    page.wait_for_function("lingbot.stats.controlMs !== null")
    page.evaluate("hide(true)")
    before = page.evaluate("lingbot.stats")
    assert before["held"] == []
    page.wait_for_function(
        "until => lingbot.stats.chunkIndex >= until",
        arg=before["chunkIndex"] + num_chunks,
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
    assert after["framesLate"] < before["framesLate"] + 12, "a chunk late"
    assert after["framesDropped"] > 0 or num_chunks == 2
    page.wait_for_function(
        """num => {
            const { framesShown, framesDropped, framesCut } = lingbot.stats;
            return framesShown + framesDropped + framesCut >= num;
        }""",
        arg=during["framesReceived"],
    )
    # The key was released when the page was hidden: that release was not waited for.
    assert page.evaluate("lingbot.stats.controlMs") == before["controlMs"]


def test_words_in_the_prompt_field_change_the_world_and_do_not_walk(page: Page) -> None:
    enter(page)
    page.fill("#live-prompt", "")
    page.keyboard.type("was die")
    assert page.input_value("#live-prompt") == "was die"
    assert page.evaluate("lingbot.stats.held") == []
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement === document.body")
    shown = page.evaluate("lingbot.stats.chunkIndex")
    page.wait_for_function("before => lingbot.stats.chunkIndex > before + 1", arg=shown)
    assert not page.is_visible("#toast"), "the change was refused"
    page.keyboard.down("w")
    wait_for_actions(page, ["w"])


def test_a_tab_that_is_left_releases_the_keys_and_one_may_walk_on(page: Page) -> None:
    hide_at_will(page)
    enter(page)
    page.keyboard.down("w")
    wait_for_actions(page, ["w"])
    page.evaluate("hide(true)")
    assert held(page) == []
    page.evaluate("hide(false)")
    page.keyboard.down("w")  # the keyboard repeats
    wait_for_actions(page, ["w"])


def test_fingers_hold_one_key_each_and_may_slip(page: Page) -> None:
    enter(page)
    fingers = page.context.new_cdp_session(page)
    forward, right = middle(page, "[data-key=w]"), middle(page, "[data-key=l]")
    touch(fingers, "touchStart", forward)
    touch(fingers, "touchStart", forward, right)
    wait_for_actions(page, ["w", "l"])
    touch(fingers, "touchMove", (640, 300), right)
    assert held(page) == ["w", "l"], "a slipping finger still holds"
    touch(fingers, "touchCancel")  # the system takes over: a call, a gesture of its own
    page.wait_for_function("lingbot.stats.held.length === 0")
    wait_for_actions(page, [])


def test_a_gamepad_walks_and_looks(page: Page) -> None:
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
    wait_for_actions(page, ["w", "l"])  # the window has the focus still: the stick speaks
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


def test_the_mouse_looks_once_the_picture_has_caught_it(page: Page) -> None:
    sent = listen_to_client(page)
    enter(page)
    page.mouse.move(500, 300)
    page.mouse.move(600, 300)
    assert held(page) == [], "a mouse that was not caught"
    page.click("#world")
    page.wait_for_function("document.pointerLockElement !== null")
    x, y = middle(page, "#world")  # where it was clicked
    page.mouse.move(x - 200, y)
    page.wait_for_function("lingbot.stats.held.length === 0")  # a movement fades
    page.mouse.move(x - 200, y - 100)
    page.wait_for_function("lingbot.stats.held.length === 0")
    events = [message for message in sent if message["type"] == "event"]
    states = [event["payload"]["transitions"][0]["actions"] for event in events]
    assert states[-4:] == [["j"], [], ["i"], []]
    page.keyboard.press("Escape")
    page.wait_for_function("document.pointerLockElement === null")
    assert page.evaluate("lingbot.state") == "playing", "the first Esc only frees the mouse"
    page.keyboard.press("Escape")
    assert page.evaluate("lingbot.state") == "start"
