"""What a visitor sees in windows of all sizes, and in the first minute."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, ViewportSize

from benchmarks.chromium import STEP_MS
from tests.browser.driver import wait_for_async
from tests.browser.fake_server import chunk, grey
from tests.browser.scripted.world import ScriptedWorld, enter_scripted

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("focus")]

DESKTOP, PORTRAIT, LANDSCAPE, SMALL = (1280, 800), (390, 844), (844, 390), (320, 480)
OTHERS = [(1440, 700), (1080, 700), (900, 700), (812, 375), (768, 1024), (360, 640), (568, 320)]
SIZES = [(208, 128), (832, 480), (64, 112)]  # of a world's frames
HINT = "#first-hint"


@pytest.fixture
def phone(browser: Browser, server: SimpleNamespace) -> Iterator[Page]:
    """The start screen on a touch screen."""
    width, height = PORTRAIT
    context = browser.new_context(
        viewport=ViewportSize(width=width, height=height), has_touch=True, is_mobile=True
    )
    context.set_default_timeout(STEP_MS)
    page = context.new_page()
    page.goto(server.http)
    page.wait_for_selector("#enter:enabled")
    yield page
    context.close()


def resize(page: Page, viewport: tuple[int, int]) -> None:
    page.set_viewport_size(ViewportSize(width=viewport[0], height=viewport[1]))


def box(page: Page, selector: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of an element."""
    rect: dict[str, Any] = page.locator(selector).evaluate(
        "element => element.getBoundingClientRect().toJSON()"
    )
    return rect["left"], rect["top"], rect["right"], rect["bottom"]


def show_size(page: Page, world: ScriptedWorld, width: int, height: int) -> None:
    """Show a frame of this size."""
    frames = grey(12, 90, width=width, height=height)
    world.send(*chunk(frames, index=world.num_chunks, world_index=world.num_chunks))
    world.num_chunks += 1
    wait_for_async(page, "async (width) => (await lingbot.lastFrame())?.width === width", width)


@pytest.mark.parametrize("viewport", [DESKTOP, PORTRAIT, LANDSCAPE, SMALL])
def test_a_visitor_can_enter_without_scrolling(page: Page, viewport: tuple[int, int]) -> None:
    resize(page, viewport)
    left, top, right, bottom = box(page, "#enter")
    assert left >= 0 and top >= 0
    assert right <= viewport[0] and bottom <= viewport[1]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("viewport", [DESKTOP, PORTRAIT, LANDSCAPE, SMALL, *OTHERS])
def test_the_pads_stand_on_the_picture_or_beside_it(page: Page, viewport: tuple[int, int]) -> None:
    resize(page, viewport)
    world = enter_scripted(page)
    for size in SIZES:
        show_size(page, world, *size)
        left, top, right, bottom = box(page, "#world")
        for key in "wasdijkl":
            pad = box(page, f"[data-key={key}]")
            assert min(pad) >= 0 and pad[2] <= viewport[0] and pad[3] <= viewport[1], key
            across = pad[0] < left < pad[2] or pad[0] < right < pad[2]
            along = pad[1] < top < pad[3] or pad[1] < bottom < pad[3]
            meets = pad[2] > left and pad[0] < right and pad[3] > top and pad[1] < bottom
            straddles = meets and (across or along)
            narrow = right - left < 300  # no room for two pads on it
            assert not straddles or narrow, (size, key)


def test_an_opening_that_comes_late_leaves_the_shape_of_the_frame(page: Page) -> None:
    """A busy page's thread crops it after the first frame."""
    page.evaluate(
        """() => {
            const { createImageBitmap } = window;
            window.createImageBitmap = async (...image) => {
                await new Promise((resolve) => { window.crop = resolve; });
                const cropped = await createImageBitmap(...image);
                window.isCropped = true;
                return cropped;
            };
        }"""
    )
    world = enter_scripted(page)
    page.wait_for_function("window.crop !== undefined")
    show_size(page, world, 64, 112)
    page.evaluate("() => { crop(); }")
    page.wait_for_function("window.isCropped")
    left, top, right, bottom = box(page, "#world")
    assert (right - left) / (bottom - top) == pytest.approx(64 / 112, rel=0.01)


@pytest.mark.parametrize("viewport", [PORTRAIT, SMALL])
def test_the_world_is_as_wide_as_a_phone(page: Page, viewport: tuple[int, int]) -> None:
    resize(page, viewport)
    world = enter_scripted(page)
    show_size(page, world, 208, 128)
    left, top, right, bottom = box(page, "#world")
    assert right - left == viewport[0]
    assert bottom - top == pytest.approx(viewport[0] * 128 / 208, abs=1)
    assert bottom <= box(page, ".deck")[1], "the deck is on the picture"


def test_all_of_the_smallest_screen_is_reached(page: Page) -> None:
    resize(page, SMALL)
    world = enter_scripted(page)
    for button in page.locator(".tools button").all():
        rect = button.bounding_box()
        assert rect is not None
        assert rect["x"] >= 0 and rect["x"] + rect["width"] <= SMALL[0]
    for panel in ("timeline", "portable", "settings"):
        page.click(f"[popovertarget={panel}]")
        left, top, right, bottom = box(page, f"#{panel}")
        assert left >= 0 and right <= SMALL[0] and top >= 0 and bottom <= SMALL[1]
        page.keyboard.press("Escape")
    text = "the session was open for 600 s, its longest time"
    world.send({"type": "error", "content": text, "code": "session_ended"})
    world.close(1000, text)
    page.wait_for_function("lingbot.state === 'ended'")
    left, top, right, bottom = box(page, "#card")
    assert left >= 0 and right <= SMALL[0]
    assert top >= box(page, ".bar")[3] and bottom <= SMALL[1]


# ---- the first minute


def test_a_line_says_how_to_walk_until_a_key_is_held(page: Page) -> None:
    enter_scripted(page)
    assert page.inner_text(HINT) == "Hold W to walk"
    assert box(page, HINT)[3] <= box(page, "#change")[1], "it covers the prompt"
    page.mouse.move(640, 400)  # no key
    assert page.is_visible(HINT)
    page.keyboard.down("a")
    page.wait_for_selector(HINT, state="hidden")
    page.keyboard.up("a")
    assert not page.is_visible(HINT)


def test_the_line_is_on_each_walk_until_a_key_was_held(page: Page) -> None:
    world = enter_scripted(page)
    for num, is_shown in [(2, True), (3, False)]:
        page.keyboard.press("Escape")
        page.click("#enter")
        world.wait_for_init(num)
        world.open()
        assert page.is_visible(HINT) is is_shown
        page.keyboard.press("w")


def test_a_touch_screen_has_words_on_its_pads(phone: Page) -> None:
    enter_scripted(phone)
    assert phone.inner_text(HINT) == "Hold Walk forward"
    words = [text.split() for text in phone.locator(".pad").all_inner_texts()]
    assert words == [
        ["Walk", "forward", "Left", "Back", "Right"],
        ["Look", "up", "Left", "Down", "Right"],
    ]
    for button in phone.locator(".pad button").all():
        assert button.evaluate("button => button.scrollWidth <= button.clientWidth")
    phone.tap("[data-key=w]")
    phone.wait_for_selector(HINT, state="hidden")


def test_a_mouse_has_letters_on_its_pads(page: Page) -> None:
    enter_scripted(page)
    assert "".join(page.locator(".pad b").all_inner_texts()) == "WASDIJKL"
    assert not page.is_visible(".pad span >> nth=0")
