"""The page in a real Chromium, on the real stack."""

import io
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, ViewportSize

from tests.browser.stage import (
    answer_init,
    chunk,
    enter,
    grey,
    listen_to_client,
    png,
    wait_for_actions,
)

pytestmark = pytest.mark.browser

SCREENSHOT = Path(__file__).parents[2] / "build" / "page.png"
DESKTOP = ViewportSize(width=1280, height=800)
TABLET = ViewportSize(width=900, height=700)
PHONE = ViewportSize(width=390, height=844)
SIDEWAYS = ViewportSize(width=844, height=390)


def wait_for_figures(page: Page) -> None:
    """Until the HUD has all of them."""
    page.wait_for_function(
        "[...document.querySelectorAll('[data-figure]')].every(cell => cell.innerText !== '–')"
    )


def test_a_world_opens_and_its_picture_moves(page: Page) -> None:
    enter(page)
    page.keyboard.down("w")
    page.evaluate("async () => { window.before = await lingbot.lastFrame(); }")
    page.wait_for_function(
        """async () => {
            const { data } = await lingbot.lastFrame();
            return before.data.filter((value, at) => value !== data[at]).length > data.length / 20;
        }"""
    )
    page.wait_for_function("lingbot.stats.chunkIndex >= 3")
    stats = page.evaluate("lingbot.stats")
    accounted = sum(stats[f"frames{where}"] for where in ("Shown", "Queued", "Cut"))
    assert accounted == stats["framesReceived"]
    assert stats["framesDropped"] == 0


def test_the_figures_are_plausible(page: Page) -> None:
    enter(page)
    page.keyboard.press("d")
    page.wait_for_function("lingbot.stats.chunkIndex >= 6 && lingbot.stats.controlMs !== null")
    stats = page.evaluate("lingbot.stats")
    assert 1 < stats["fps"] < 60
    assert 0 < stats["chunkMs"] < 10_000
    assert 20 < stats["controlMs"] < 10_000
    assert stats["bytesPerSecond"] > 1_000
    assert stats["codec"] == "jpeg"
    wait_for_figures(page)


def test_an_upload_opens_a_world_and_a_file_that_is_no_picture_is_named(page: Page) -> None:
    page.set_input_files("#upload", {"name": "a.png", "mimeType": "image/png", "buffer": b"no"})
    page.wait_for_selector("#start-notice:visible")
    assert "a.png" in page.inner_text("#start-notice")
    page.set_input_files(
        "#upload", {"name": "b.png", "mimeType": "image/png", "buffer": png(3000, 2000)}
    )
    page.wait_for_selector("text=Your picture")
    assert not page.is_visible("#start-notice")
    sent = listen_to_client(page)
    enter(page)
    assert sent[0]["prompt"] == "A world to walk in"
    with Image.open(io.BytesIO(sent[0]["first_frame"])) as picture:
        assert picture.size == (1280, 853)


def test_an_emptied_prompt_is_the_chosen_pictures_own(page: Page) -> None:
    sent = listen_to_client(page)
    page.locator("#openings .card").nth(1).click()
    theirs = page.input_value("#prompt")
    page.fill("#prompt", "")
    assert page.get_attribute("#prompt", "placeholder") == theirs, "nobody can see it"
    enter(page)
    assert sent[0]["prompt"] == theirs == page.input_value("#live-prompt")


def test_a_browser_that_is_too_old_is_told_so(page: Page) -> None:
    page.add_init_script("delete HTMLCanvasElement.prototype.transferControlToOffscreen")
    page.reload()
    page.wait_for_selector("#start-notice:visible")
    assert "cannot draw from a worker" in page.inner_text("#start-notice")
    assert page.is_disabled("#enter")


def test_leaving_frees_the_world_for_the_next_walk(page: Page) -> None:
    for _ in range(3):
        enter(page)
        page.keyboard.press("Escape")
        page.wait_for_function("lingbot.state === 'start'")
        assert page.is_visible("#enter")


@pytest.mark.parametrize(("width", "height"), [(112, 64), (832, 480), (64, 112)])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_frame_of_any_size_keeps_its_shape(
    page: Page, viewport: ViewportSize, width: int, height: int
) -> None:
    page.set_viewport_size(viewport)
    answer_init(page, *chunk(grey(1, 255, width=width, height=height), index=0))
    enter(page)
    world, view = page.locator("#world").bounding_box(), page.locator(".view").bounding_box()
    assert world is not None and view is not None
    assert world["width"] / world["height"] == pytest.approx(width / height, rel=0.01)
    spare = [view[side] - world[side] for side in ("width", "height")]
    assert min(spare) == pytest.approx(0, abs=1), "neither as large as fits nor within"


@pytest.mark.parametrize("viewport", [DESKTOP, TABLET, PHONE, SIDEWAYS])
def test_nothing_is_cut_off(page: Page, viewport: ViewportSize) -> None:
    page.set_viewport_size(viewport)
    page.click("summary")
    for screen in ("start", "playing"):
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), screen
        if screen == "start":
            enter(page)
    page.click("[popovertarget=settings]")
    for part in (".bar button", ".bar dd", ".settings label", ".deck button"):
        for index, element in enumerate(page.locator(part).all()):
            if (box := element.bounding_box()) is None:
                continue  # left out where there is no room
            right, bottom = box["x"] + box["width"], box["y"] + box["height"]
            assert box["x"] >= 0 and right <= viewport["width"], (part, index)
            assert box["y"] >= 0 and bottom <= viewport["height"], (part, index)
    for part in (".bar", ".view"):
        box = page.locator(part).bounding_box()
        assert box is not None
        assert 2 * box["x"] + box["width"] <= viewport["width"] + 1, "wider than its margins"
    for key in "wasdijkl":
        box = page.locator(f"[data-key={key}]").bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 44, "too small for a thumb"


def test_a_picture_of_the_page_is_kept(page: Page) -> None:
    enter(page)
    page.keyboard.down("w")
    wait_for_actions(page, ["w"])
    walking_since = page.evaluate("lingbot.stats.chunkIndex")
    # Past the first chunks, which come faster than they are shown: the figures are steady.
    page.wait_for_function("since => lingbot.stats.chunkIndex >= since + 6", arg=walking_since)
    wait_for_figures(page)
    SCREENSHOT.parent.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOT)
    with Image.open(SCREENSHOT) as image:
        assert image.size == (DESKTOP["width"], DESKTOP["height"])
