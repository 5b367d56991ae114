"""Worlds that the page saves to a file, keeps, opens and continues."""

import io
import re
from pathlib import Path

import pytest
from msgspec import msgpack
from PIL import Image
from playwright.sync_api import Page

from benchmarks.page import enter, wait_until_playing
from tests.browser.driver import (
    fake_visibility,
    listen_to_client,
    play_until,
    read_card,
    texts_of,
    wait_for_async,
    wait_for_text,
)
from tests.browser.scripted.world import (
    OUTPUT_FIELDS,
    REFUSED,
    SNAPSHOT,
    ScriptedWorld,
    keep,
    offer,
    wait_for_moments,
)

pytestmark = [pytest.mark.browser]


def test_a_saved_world_is_a_file(page: Page, world: ScriptedWorld, tmp_path: Path) -> None:
    page.click("[popovertarget=portable]")
    with page.expect_download() as download:
        page.click("#save")
        world.answer_save(1)
    assert re.fullmatch(r"lingbot-[\d-]+T[\d-]+\.world", download.value.suggested_filename)
    download.value.save_as(tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == SNAPSHOT
    wait_for_text(page, "toast", "The world was saved to a file.")


def test_an_error_of_the_server_is_one_line_and_the_walk_goes_on(
    page: Page, world: ScriptedWorld
) -> None:
    page.click("[popovertarget=portable]")
    page.click("#save")
    event_id = world.wait_for_event("save")["event_id"]
    world.send({"type": "error", "code": "refused", "content": "not now", "event_id": event_id})
    wait_for_text(page, "toast", "not now")
    world.play(world_index=1)
    assert page.evaluate("lingbot.state") == "playing"


def test_a_kept_world_goes_on_after_a_reload(page: Page, world: ScriptedWorld) -> None:
    page.fill("#live-prompt", "a hill")
    page.press("#live-prompt", "Enter")
    wait_for_moments(page, 1)
    keep(page, world)
    page.reload()
    assert "0:00 into a walk" in offer(page)
    page.wait_for_function("document.querySelector('#continue-image').naturalWidth === 210")
    page.click("#continue")
    init = world.wait_for_init(2)
    assert init.keys() == OUTPUT_FIELDS | {"snapshot"}
    assert init["snapshot"] == SNAPSHOT
    assert page.input_value("#live-prompt") == "a hill"
    world.open(world_chunk_index=1)
    assert page.evaluate("lingbot.stats.worldChunkIndex") == 1


def test_a_world_is_kept_every_ten_seconds_while_it_goes_on(page: Page) -> None:
    page.evaluate(
        """() => {
            window.periods = [];
            const { setInterval } = window;
            window.setInterval = (run, ms) => {
                periods.push(ms);
                return setInterval(run, ms);
            };
        }"""
    )
    world = ScriptedWorld(page)
    page.click("#enter")
    world.wait_for_init(1)
    world.open()
    assert page.evaluate("periods") == [10_000]
    world.answer_save(1)  # the page asks for it by itself
    page.evaluate("lingbot.keep()")
    assert len(world.events("save")) == 1, "nothing was new"
    world.play(world_index=1)
    page.evaluate("() => { lingbot.keep(); }")
    world.wait_for_event("save", 2)


def test_a_world_that_is_being_kept_is_awaited(page: Page, world: ScriptedWorld) -> None:
    page.evaluate("() => { lingbot.keep(); lingbot.keep().then(() => { window.isKept = true; }); }")
    world.wait_for_event("save")
    assert page.evaluate("window.isKept") is None
    world.answer_save(1)
    page.wait_for_function("window.isKept")
    assert len(world.events("save")) == 1
    page.reload()
    offer(page)


@pytest.mark.parametrize("code", [1000, 1006])
@pytest.mark.parametrize("action", ["save", "fork", "step-back", "keep"])
def test_an_end_is_no_error_of_what_is_under_way(
    page: Page, world: ScriptedWorld, action: str, code: int
) -> None:
    """After code 1000 the page shows the frames that it has, before the end."""
    if action == "keep":
        page.evaluate("() => { lingbot.keep(); }")
    else:
        page.evaluate("id => document.getElementById(id).click()", action)
    world.wait_for_event({"keep": "save", "step-back": "rewind"}.get(action, action))
    world.close(code)
    if code == 1000:
        read_card(page)
    else:
        world.wait_for_init(2)
    assert not [text for text in texts_of(page, "toast") if "No world is open" in text]


def test_a_world_is_kept_when_its_page_is_hidden(page: Page, world: ScriptedWorld) -> None:
    fake_visibility(page)
    page.evaluate("hide(true)")
    world.answer_save(1)
    wait_for_async(
        page,
        """async () => {
            const { readKept } = await import("/static/world/kept.js");
            return (await readKept()) !== undefined;
        }""",
    )
    page.reload()
    offer(page)


def test_a_refused_world_is_forgotten_with_a_line(page: Page, world: ScriptedWorld) -> None:
    keep(page, world)
    page.reload()
    offer(page)
    page.click("#continue")
    world.wait_for_init(2)
    world.send(REFUSED)
    page.wait_for_selector("#start-notice:visible")
    line = page.inner_text("#start-notice")
    assert line.startswith("The world that was kept cannot be opened and is forgotten: ")
    assert REFUSED["content"] in line
    page.wait_for_selector("#kept", state="hidden")
    page.reload()
    page.wait_for_selector("#enter:enabled")
    assert not page.is_visible("#kept")


def test_a_busy_server_is_no_reason_to_forget(page: Page, world: ScriptedWorld) -> None:
    keep(page, world)
    page.reload()
    offer(page)
    page.click("#continue")
    world.wait_for_init(2)
    world.send({"type": "error", "code": "busy", "content": "full", "retry_after_s": 60})
    assert read_card(page)["title"] == "Every world is taken"
    page.click("#back")
    offer(page)


def test_forget_forgets(page: Page, world: ScriptedWorld) -> None:
    keep(page, world)
    page.keyboard.press("Escape")
    offer(page)
    page.click("#forget")
    page.wait_for_selector("#kept", state="hidden")
    page.reload()
    page.wait_for_selector("#enter:enabled")
    assert not page.is_visible("#kept")


def drop(page: Page, name: str, data: bytes, kind: str = "") -> None:
    page.evaluate(
        """([name, bytes, type]) => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
            const options = { dataTransfer, bubbles: true, cancelable: true };
            document.querySelector("#headline").dispatchEvent(new DragEvent("drop", options));
        }""",
        [name, list(data), kind],
    )


@pytest.mark.parametrize("how", ["chosen", "dropped"])
def test_a_saved_world_is_opened_and_a_wrong_one_is_named(page: Page, how: str) -> None:
    world = ScriptedWorld(page)
    data = SNAPSHOT[:1000]
    if how == "dropped":
        drop(page, "hill.world", data)
    else:
        file = {"name": "hill.world", "mimeType": "", "buffer": data}
        page.set_input_files("#open", file)  # type: ignore[arg-type]
    assert world.wait_for_init(1).keys() == OUTPUT_FIELDS | {"snapshot"}
    assert world.inits[0]["snapshot"] == data
    world.send(REFUSED)
    page.wait_for_selector("#start-notice:visible")
    line = page.inner_text("#start-notice")
    assert line == f"hill.world cannot be opened: {REFUSED['content']}"


def test_a_dropped_picture_is_still_an_opening(page: Page) -> None:
    data = io.BytesIO()
    Image.new("RGB", (20, 10)).save(data, "PNG")
    drop(page, "photo", data.getvalue())
    page.wait_for_selector("text=Your picture")


def test_a_file_that_no_init_can_hold_is_not_sent(page: Page) -> None:
    page.evaluate(
        """() => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array(17 * 2 ** 20)], "big.world"));
            const options = { dataTransfer, bubbles: true, cancelable: true };
            document.querySelector("#headline").dispatchEvent(new DragEvent("drop", options));
        }"""
    )
    page.wait_for_selector("#start-notice:visible")
    line = "big.world has 17 MiB. A saved world has less than 16."
    assert page.inner_text("#start-notice") == line


def test_a_world_of_the_server_is_saved_opened_and_kept(page: Page, tmp_path: Path) -> None:
    enter(page)
    play_until(page, 3)
    page.click("[popovertarget=portable]")
    with page.expect_download() as download:
        page.click("#save")
    path = tmp_path / "hill.world"
    download.value.save_as(path)
    page.evaluate("lingbot.keep()")
    kept = page.evaluate("lingbot.stats.worldChunkIndex")
    page.reload()
    page.wait_for_selector("#continue:visible")
    page.click("#continue")
    play_until(page, kept)
    page.keyboard.press("Escape")
    sent = listen_to_client(page)
    page.set_input_files("#open", path)
    wait_until_playing(page)
    snapshot = path.read_bytes()
    assert sent[0]["snapshot"] == snapshot
    index = msgpack.decode(snapshot)["chunk_index"]
    assert page.evaluate("lingbot.stats.worldChunkIndex") >= index
    page.keyboard.press("Escape")
    path.write_bytes(b"{}")
    page.set_input_files("#open", path)
    page.wait_for_selector("#start-notice:visible")
    assert page.inner_text("#start-notice").startswith("hill.world cannot be opened: `snapshot`")
