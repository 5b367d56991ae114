"""The page in a real Chromium, on the real stack."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, Route, ViewportSize

from benchmarks.chromium import STEP_MS
from benchmarks.page import enter
from tests.browser.driver import choose_format, listen_to_client, wait_for_async
from tests.browser.fake_server import answer_init, chunk, grey

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("server")]

DESKTOP = ViewportSize(width=1280, height=800)
LAPTOP = ViewportSize(width=1080, height=700)
TABLET = ViewportSize(width=900, height=700)
PHONE = ViewportSize(width=390, height=844)
PHONE_LANDSCAPE = ViewportSize(width=844, height=390)


def png(width: int, height: int) -> bytes:
    data = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((width, height)).save(data, "PNG")
    return data.getvalue()


def wait_for_hud(page: Page) -> None:
    """Wait until every cell of the HUD shows a value."""
    page.wait_for_function(
        "[...document.querySelectorAll('[data-stat]')].every(cell => cell.innerText !== '–')"
    )


def test_a_world_opens_and_its_frames_move(page: Page) -> None:
    enter(page)
    page.keyboard.down("w")
    page.evaluate("async () => { window.before = await lingbot.lastFrame(); }")
    wait_for_async(
        page,
        """async () => {
            const { data } = await lingbot.lastFrame();
            return before.data.filter((value, at) => value !== data[at]).length > data.length / 20;
        }""",
    )
    page.wait_for_function("lingbot.stats.chunkIndex >= 3")
    stats = page.evaluate("lingbot.stats")
    accounted = sum(stats[f"frames{where}"] for where in ("Shown", "Queued", "Cut", "Dropped"))
    assert accounted == stats["framesReceived"]
    # A browser that a busy machine stalls overflows the buffer: then as many frame times were late.
    assert stats["framesDropped"] <= stats["framesLate"] + 1


def test_the_statistics_are_plausible(page: Page) -> None:
    choose_format(page, "jpeg")  # the automatic one may lower it on a busy machine
    enter(page)
    page.keyboard.press("d")
    page.wait_for_function("lingbot.stats.chunkIndex >= 6 && lingbot.stats.controlMs !== null")
    stats = page.evaluate("lingbot.stats")
    assert 0 < stats["fps"] < 60
    assert 0 < stats["chunkMs"] < STEP_MS
    assert 20 < stats["controlMs"] < STEP_MS
    assert stats["bytesPerSecond"] > 1_000
    assert stats["codec"] == "jpeg"
    wait_for_hud(page)


def upload(page: Page, name: str, data: bytes, kind: str = "image/png") -> None:
    page.set_input_files("#upload", {"name": name, "mimeType": kind, "buffer": data})


def test_an_upload_opens_a_world_and_an_unreadable_file_is_named(page: Page) -> None:
    upload(page, "a.png", b"no")
    page.wait_for_selector("#start-notice:visible")
    assert "a.png" in page.inner_text("#start-notice")
    data = png(3000, 2000)
    upload(page, "b.png", data)
    page.wait_for_selector("text=Your picture")
    assert not page.is_visible("#start-notice")
    sent = listen_to_client(page)
    enter(page)
    assert "prompt" not in sent[0]
    assert sent[0]["first_frame"] == data, "the server decodes the file itself"


def test_a_truncated_photo_is_sent_as_it_is(page: Page) -> None:
    data = io.BytesIO()
    Image.linear_gradient("L").resize((640, 480)).save(data, "JPEG")
    cut = data.getvalue()[:-500]
    upload(page, "cut.jpg", cut, "image/jpeg")
    page.wait_for_selector("text=Your picture")
    assert answer_and_enter(page)[0]["first_frame"] == cut


SVG = b"""<svg xmlns="http://www.w3.org/2000/svg" width="3000" height="2000">
<rect width="3000" height="2000" fill="rgb(200, 100, 50)"/></svg>"""


def large_bmp() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (3000, 2000), (200, 100, 50)).save(data, "BMP")
    assert data.tell() > 16 * 2**20
    return data.getvalue()


@pytest.mark.parametrize("kind", ["svg", "bmp"])
def test_what_the_server_does_not_take_is_sent_as_a_png(
    page: Page, kind: str, tmp_path: Path
) -> None:
    file = tmp_path / f"a.{kind}"
    file.write_bytes(SVG if kind == "svg" else large_bmp())
    page.set_input_files("#upload", file)
    page.wait_for_selector("text=Your picture")
    sent = answer_and_enter(page)
    with Image.open(io.BytesIO(sent[0]["first_frame"])) as image:
        assert (image.format, image.size) == ("PNG", (1280, 853))
        assert image.convert("RGB").getpixel((640, 400)) == (200, 100, 50)


# Every canvas reads as white, as in Firefox with resistFingerprinting.
WHITE_CANVAS = """() => {
    CanvasRenderingContext2D.prototype.getImageData = (x, y, width, height) =>
        new ImageData(new Uint8ClampedArray(4 * width * height).fill(255), width, height);
    HTMLCanvasElement.prototype.toBlob = (resolve) => resolve(new Blob([]));
}"""


def test_an_upload_is_intact_where_the_canvas_cannot_be_read(page: Page, tmp_path: Path) -> None:
    page.evaluate(WHITE_CANVAS)
    file = tmp_path / "large.bmp"
    file.write_bytes(large_bmp())
    page.set_input_files("#upload", file)
    page.wait_for_selector("#start-notice:visible")
    assert "does not let pages read" in page.inner_text("#start-notice")
    data = png(3000, 2000)
    upload(page, "b.png", data)
    page.wait_for_selector("text=Your picture")
    assert answer_and_enter(page)[0]["first_frame"] == data


def answer_and_enter(page: Page) -> list[dict[str, Any]]:
    """The messages of the page to a server that shows one grey frame."""
    sent = answer_init(page, *chunk(grey(1, 128), index=0))
    enter(page)
    return sent


def reload_with_world(page: Page, **changes: Any) -> None:
    """Reload the page; the server's description of its world has these changes."""

    def describe(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | changes)

    page.route("**/v1/world", describe)
    page.reload()


def test_a_world_without_openings_asks_for_a_picture(page: Page) -> None:
    sent = answer_init(page, *chunk(grey(1, 128), index=0))
    reload_with_world(page, openings=[])
    page.wait_for_selector("#start-notice:visible")
    assert "no picture of its own" in page.inner_text("#start-notice")
    assert page.is_disabled("#enter")
    data = png(30, 20)
    upload(page, "b.png", data)
    page.wait_for_selector("text=Your picture")
    assert not page.is_visible("#start-notice")
    enter(page)
    assert sent[0]["first_frame"] == data


@pytest.mark.parametrize("label, size", [("as the picture", "128x208"), ("208x128", "208x128")])
def test_the_picture_decides_the_size_unless_one_is_chosen(
    page: Page, label: str, size: str
) -> None:
    sent = answer_init(page, *chunk(grey(1, 128), index=0))
    reload_with_world(page, sizes=[[208, 128], [128, 208]])
    page.wait_for_selector("#enter:enabled")
    page.click("summary:text('Options')")
    assert page.input_value("#size") == ""
    page.select_option("#size", label=label)
    upload(page, "tall.png", png(20, 30))
    page.wait_for_selector("text=Your picture")
    enter(page)
    assert sent[0]["size"] == size


def test_an_empty_prompt_falls_back_to_that_of_the_chosen_opening(page: Page) -> None:
    sent = listen_to_client(page)
    page.locator("#openings .card").nth(1).click()
    default = page.input_value("#prompt")
    page.fill("#prompt", "")
    assert page.get_attribute("#prompt", "placeholder") == default, "the fallback is not visible"
    enter(page)
    assert sent[0]["prompt"] == default == page.input_value("#live-prompt")


def test_leaving_frees_the_world_for_the_next_session(page: Page) -> None:
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
    assert min(spare) == pytest.approx(0, abs=1), "not the largest size that fits"


@pytest.mark.parametrize("viewport", [DESKTOP, LAPTOP, TABLET, PHONE, PHONE_LANDSCAPE])
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
                continue  # hidden in a small viewport
            right, bottom = box["x"] + box["width"], box["y"] + box["height"]
            assert box["x"] >= 0 and right <= viewport["width"], (part, index)
            assert box["y"] >= 0 and bottom <= viewport["height"], (part, index)
    for part in (".bar", ".view"):
        box = page.locator(part).bounding_box()
        assert box is not None
        assert 2 * box["x"] + box["width"] <= viewport["width"] + 1, "the margins differ"
    for key in "wasdijkl":
        box = page.locator(f"[data-key={key}]").bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 44, "too small for a thumb"
