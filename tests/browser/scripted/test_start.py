"""The start screen: its seed, its pictures, and files that are dropped on the page."""

import base64
import io
from typing import Any

import pytest
from msgspec import msgpack
from PIL import Image
from playwright.sync_api import Page

from tests.browser.driver import wait_for_text
from tests.browser.scripted.world import ScriptedWorld, enter_scripted, keep, offer
from tests.transport.fake_world import png

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("focus")]

# Drops a file as a browser does, on the element in the middle of the page.
DROP = """({ name, type, base64, padding }) => {
    const data = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([data, new Uint8Array(padding)], name, { type }));
    const target = document.elementFromPoint(innerWidth / 2, innerHeight / 2);
    for (const kind of ["dragover", "drop"]) {
        target.dispatchEvent(
            new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }),
        );
        window.wasMarked = (window.wasMarked ?? false) || "drop" in document.body.dataset;
    }
}"""


def drop(page: Page, name: str, data: bytes, kind: str = "", *, padding: int = 0) -> None:
    """Drop a file of this data and so many zeros."""
    encoded = base64.b64encode(data).decode()
    page.evaluate(DROP, {"name": name, "type": kind, "base64": encoded, "padding": padding})


def upload(page: Page, data: bytes) -> None:
    page.set_input_files("#upload", {"name": "a.png", "mimeType": "image/png", "buffer": data})


def enter(page: Page) -> dict[str, Any]:
    """Enter a scripted world. Returns the init."""
    world = ScriptedWorld(page)
    page.click("#enter")
    return world.wait_for_init(1)


def test_an_empty_seed_lets_the_server_draw_one(page: Page) -> None:
    page.click("summary")
    page.fill("#seed", "")
    page.click("summary")
    assert enter(page)["seed"] == -1


@pytest.mark.parametrize("seed", ["1.5", "-3", "9007199254740993"])
def test_a_wrong_seed_is_named_and_shown(page: Page, seed: str) -> None:
    world = ScriptedWorld(page)
    page.click("summary")
    page.fill("#seed", seed)
    page.click("summary")
    assert not page.is_visible("#seed")
    page.focus("#enter")
    page.keyboard.press("Enter")
    assert "A seed is a whole number" in page.inner_text("#start-notice")
    assert page.is_visible("#seed")
    assert page.evaluate("document.activeElement.id") == "seed"
    assert page.get_attribute("#seed", "aria-invalid") == "true"
    page.fill("#seed", "7")
    page.keyboard.press("Enter")
    assert world.wait_for_init(1)["seed"] == 7
    assert page.inner_text("#start-notice") == ""


def test_all_of_the_start_screen_is_reached_by_keyboard(page: Page) -> None:
    upload(page, png(30, 20))
    page.wait_for_selector("text=Your picture")
    page.evaluate("document.activeElement.blur()")
    stops = []
    for _ in range(9):
        page.keyboard.press("Tab")
        stops.append(
            page.evaluate(
                "[document.activeElement].map(({ id, name, className, tagName }) =>"
                " id || name || className || tagName)[0]"
            )
        )
    assert stops[:7] == ["opening", "remove", "upload", "prompt", "enter", "open", "SUMMARY"]
    page.focus("[name=opening]:checked")
    page.keyboard.press("ArrowLeft")
    assert page.input_value("#prompt") == "a grey hill"
    world = ScriptedWorld(page)
    page.keyboard.press("Enter")  # from a radio button, too
    assert "first_frame" not in world.wait_for_init(1)


def test_enter_walks_in_before_anything_has_the_focus(page: Page) -> None:
    world = ScriptedWorld(page)
    assert page.evaluate("document.activeElement === document.body")
    page.keyboard.press("Enter")
    world.wait_for_init(1)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Enter")  # not on the start screen
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    assert len(world.inits) == 1


def test_an_upload_can_be_removed(page: Page) -> None:
    upload(page, png(30, 20))
    page.wait_for_selector("text=Your picture")
    assert page.input_value("#prompt") == ""
    assert page.get_attribute("#prompt", "placeholder") == "Describe the world"
    page.click("[aria-label='Remove your picture']")
    page.wait_for_selector("text=Your picture", state="detached")
    assert page.input_value("#prompt") == "a grey hill"
    assert page.is_checked("[name=opening] >> nth=0")
    assert page.evaluate("document.activeElement.name") == "opening"
    assert "first_frame" not in enter(page)


def test_the_same_file_is_taken_twice(page: Page) -> None:
    upload(page, png(30, 20))
    page.wait_for_selector("text=Your picture")
    page.click("[aria-label='Remove your picture']")
    upload(page, png(30, 20))
    page.wait_for_selector("text=Your picture 2")
    assert enter(page)["first_frame"] == png(30, 20)


@pytest.mark.parametrize("removed", [1, 2])
def test_removing_one_of_two_uploads_leaves_the_other(page: Page, removed: int) -> None:
    files = [png(30, 20), png(40, 20)]
    for number, data in enumerate(files):
        upload(page, data)
        page.locator("#openings .removable").nth(number).wait_for()
    page.locator(".remove").nth(removed - 1).click()
    assert enter(page)["first_frame"] == files[2 - removed]


def test_a_picture_dropped_on_the_start_screen_is_chosen(page: Page) -> None:
    drop(page, "a.png", png(30, 20), "image/png")
    page.wait_for_selector("text=Your picture")
    assert page.evaluate("wasMarked"), "nothing says where the file may go"
    assert not page.evaluate("'drop' in document.body.dataset")
    assert enter(page)["first_frame"] == png(30, 20)


def test_a_picture_dropped_on_a_walk_is_chosen_on_the_start_screen(page: Page) -> None:
    enter_scripted(page)
    drop(page, "a", png(30, 20))  # some systems give a file no type
    page.wait_for_selector("text=Your picture")
    assert page.evaluate("lingbot.state") == "start"
    assert page.evaluate("document.activeElement.id") == "enter"


def test_a_saved_world_dropped_on_a_walk_is_opened(page: Page) -> None:
    """The recording of the old world ends with it."""
    world = enter_scripted(page)
    page.click("#record")
    data = msgpack.encode("a saved world")
    drop(page, "my.world", data)
    init = world.wait_for_init(2)
    assert init["snapshot"] == data
    assert len(world.sockets) == 2
    assert page.is_disabled("#record")
    assert page.get_attribute("#record", "aria-pressed") == "false"


def test_what_cannot_be_taken_does_not_end_the_walk(page: Page) -> None:
    world = enter_scripted(page)
    drop(page, "broken.png", b"no", "image/png")
    wait_for_text(page, "toast", "broken.png is not a picture")
    drop(page, "huge.world", b"", padding=16 * 2**20)
    wait_for_text(page, "toast", "huge.world has 16 MiB")
    drop(page, "notes.txt", b"no picture", "text/plain")
    wait_for_text(page, "toast", "notes.txt is neither a picture nor a saved world")
    assert page.evaluate("lingbot.state") == "playing"
    assert len(world.sockets) == 1


def test_dragged_text_is_left_to_its_field(page: Page) -> None:
    taken = page.evaluate(
        """() => {
            const dataTransfer = new DataTransfer();
            dataTransfer.setData("text/plain", "a hill");
            const event = new DragEvent("dragover", { dataTransfer, cancelable: true });
            window.dispatchEvent(event);
            return event.defaultPrevented;
        }"""
    )
    assert not taken


@pytest.mark.parametrize(
    "feature",
    ["HTMLCanvasElement.prototype.transferControlToOffscreen", "HTMLElement.prototype.popover"],
)
def test_a_browser_that_is_too_old_gets_one_sentence(page: Page, feature: str) -> None:
    page.add_init_script(f"delete {feature}")
    page.reload()
    page.wait_for_selector("#start-notice:visible")
    assert "This browser cannot show a world." in page.inner_text("#start-notice")
    assert page.is_disabled("#enter")


@pytest.mark.parametrize("how", ["leave", "picture", "world"])
def test_the_next_walk_begins_without_open_panels(page: Page, how: str) -> None:
    world = enter_scripted(page)
    page.click("[popovertarget=settings]")
    if how == "world":
        drop(page, "my.world", b"a world")
    else:
        if how == "picture":
            drop(page, "a.png", png(30, 20), "image/png")
            page.wait_for_selector("text=Your picture")
        else:
            page.press("#leave", "Enter")
        page.press("#enter", "Enter")  # a click would close it
    world.wait_for_init(2)
    world.open()
    assert not page.is_visible("#settings")


UNREADABLE = """() => {
    Blob.prototype.arrayBuffer = () => Promise.reject(new DOMException("", "NotReadableError"));
}"""


@pytest.mark.parametrize("name", ["hill.world", "hill.png"])
@pytest.mark.parametrize("how", ["chosen", "dropped", "dropped on a walk"])
def test_a_file_that_cannot_be_read_is_told_in_one_line(page: Page, name: str, how: str) -> None:
    """It was moved, or another program holds it, between the choice and the reading."""
    page.evaluate(UNREADABLE)
    is_picture = name.endswith(".png")
    kind, data = ("image/png", png(30, 20)) if is_picture else ("", b"a world")
    if how == "chosen":
        file: Any = {"name": name, "mimeType": kind, "buffer": data}
        page.set_input_files("#upload" if is_picture else "#open", file)
    else:
        if how == "dropped on a walk":
            enter_scripted(page)
        drop(page, name, data, kind)
    line = "toast" if how == "dropped on a walk" else "start-notice"
    wait_for_text(page, line, f"{name} cannot be read.")


def test_a_kept_world_that_cannot_be_read_is_told_in_one_line(page: Page) -> None:
    keep(page, enter_scripted(page))
    page.keyboard.press("Escape")
    offer(page)
    page.evaluate(UNREADABLE)
    page.click("#continue")
    page.wait_for_selector("#start-notice:has-text('The world that was kept cannot be read.')")


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "bmp", "tiff", "avif", "heic", ""])
def test_a_picture_of_a_type_that_the_server_does_not_read_is_drawn(page: Page, kind: str) -> None:
    """Chromium shows no HEIC. It shows this PNG, whatever the file's type says."""
    data = png(30, 20)
    drop(page, f"a.{kind}", data, f"image/{kind}" if kind else "")
    page.wait_for_selector("text=Your picture")
    sent = enter(page)["first_frame"]
    assert (sent == data) == (kind not in ("heic", ""))
    with Image.open(io.BytesIO(sent)) as image:
        assert (image.format, image.size) == ("PNG", (30, 20))
