"""Worlds that go on after a socket was lost, or in another place."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, WebSocket

from benchmarks.page import enter
from tests.browser.driver import play_until, read_card, texts_of, wait_for_actions, wait_for_text
from tests.browser.scripted.world import (
    GONE,
    OUTPUT_FIELDS,
    REFUSED,
    SESSION,
    SNAPSHOT,
    ScriptedWorld,
    keep,
)

pytestmark = [pytest.mark.browser]


def last_frame() -> dict[str, Any]:
    data = io.BytesIO()
    Image.fromarray(np.full((64, 112, 3), 150, np.uint8)).save(data, "PNG")
    return {"type": "last_frame", "content_type": "image/png", "data": data.getvalue()}


BLACK = (0, 0, 0, 255)
WATCH_SCREENS = """() => {
    window.screens = [];
    new MutationObserver(() => screens.push(document.body.dataset.screen))
        .observe(document.body, { attributes: true, attributeFilter: ["data-screen"] });
}"""


@pytest.mark.parametrize("code", [1001, 1006, 1012])
def test_a_lost_socket_is_resumed_and_the_last_frame_stays(
    page: Page, world: ScriptedWorld, code: int
) -> None:
    page.evaluate(WATCH_SCREENS)
    page.keyboard.down("w")
    world.close(code)
    init = world.wait_for_init(2)
    assert init.keys() == OUTPUT_FIELDS | {"resume"}
    assert init["resume"] == "group.s1.secret"
    assert "Your walk goes on in a moment." in page.inner_text("#toast")
    assert page.is_hidden("#card")
    held = len(world.events("camera_actions"))
    world.send(SESSION | {"world_chunk_index": 1, "resume_token": "next"}, last_frame())
    world.wait(lambda: len(world.events("camera_actions")) > held)
    assert world.events("camera_actions")[-1]["transitions"][0]["actions"] == ["w"]
    page.wait_for_selector("#toast", state="hidden")
    world.num_chunks = 0
    world.play(world_index=1)
    assert set(page.evaluate("screens")) <= {"playing"}, "the screen changed"
    world.close(1006)
    assert world.wait_for_init(3)["resume"] == "next"


def test_the_last_frame_is_drawn_when_a_world_goes_on(page: Page) -> None:
    world = ScriptedWorld(page)
    file = {"name": "hill.world", "mimeType": "", "buffer": SNAPSHOT[:9]}
    page.set_input_files("#open", file)  # type: ignore[arg-type]
    world.wait_for_init(1)
    world.send(SESSION | {"world_chunk_index": 7}, last_frame())
    canvas = page.locator("#world")
    page.wait_for_function("document.querySelector('#world').width === 112")
    pixel: Any = BLACK
    while pixel == BLACK:  # the canvas may have its width before its pixels
        with Image.open(io.BytesIO(canvas.screenshot())) as image:
            pixel = image.getpixel((2, image.height // 2))


def test_a_session_that_is_gone_goes_on_from_the_kept_world(
    page: Page, world: ScriptedWorld
) -> None:
    keep(page, world)
    world.close(1006)
    world.wait_for_init(2)
    world.send(GONE)
    init = world.wait_for_init(3)
    assert init["snapshot"] == SNAPSHOT
    assert "It goes on where it was last kept" in page.inner_text("#toast")
    assert page.is_hidden("#card")
    world.open(world_chunk_index=1)
    page.wait_for_selector("#toast", state="hidden")


def test_a_kept_world_that_is_refused_ends_the_walk_and_is_forgotten(
    page: Page, world: ScriptedWorld
) -> None:
    keep(page, world)
    world.close(1006)
    world.wait_for_init(2)
    world.send(GONE)
    world.wait_for_init(3)
    world.send(REFUSED)
    card = read_card(page)
    assert "is forgotten" in page.inner_text("#card-text")
    assert card["detail"] == REFUSED["content"]
    page.click("#back")
    assert not page.is_visible("#kept")


def test_a_new_walk_is_announced_if_nothing_was_kept(page: Page, world: ScriptedWorld) -> None:
    page.evaluate(
        """() => {
            const note = () => { window.hadFocus = true; };
            document.getElementById("again").addEventListener("focus", note);
        }"""
    )
    world.close(1006)
    world.wait_for_init(2)
    world.send(GONE)
    wait_for_text(page, "card-title", "That world is gone")
    text = "A new walk from the same picture in 2 s (try 2 of 8)."
    assert texts_of(page, "card-retry")[0] == text
    assert page.evaluate("window.hadFocus")
    assert world.wait_for_init(3).keys() == OUTPUT_FIELDS | {"size", "seed", "prompt"}


def change_prompt(page: Page, world: ScriptedWorld, prompt: str) -> None:
    page.fill("#live-prompt", prompt)
    page.press("#live-prompt", "Enter")
    world.wait_for_event("prompt")


@pytest.mark.parametrize("by", ["itself", "button"])
def test_a_new_walk_has_the_prompt_that_the_field_shows(
    page: Page, world: ScriptedWorld, by: str
) -> None:
    change_prompt(page, world, "a snowy hill")
    if by == "itself":
        world.close(1006)
        world.wait_for_init(2)
        world.send(GONE)
    else:
        world.send({"type": "error", "code": "session_ended", "content": "over"})
        world.close(1000)
        page.click("#again")
    init = world.wait_for_init(3 if by == "itself" else 2)
    assert init.keys() == OUTPUT_FIELDS | {"size", "seed", "prompt"}
    assert init["prompt"] == page.input_value("#live-prompt") == "a snowy hill"


def test_a_kept_world_that_goes_on_has_the_newest_prompt(page: Page, world: ScriptedWorld) -> None:
    """The snapshot may be older. A server that resumes the session has the prompt already."""
    keep(page, world)
    change_prompt(page, world, "a snowy hill")
    world.close(1006)
    assert "prompt" not in world.wait_for_init(2)
    world.send(GONE)
    init = world.wait_for_init(3)
    assert (init["snapshot"], init["prompt"]) == (SNAPSHOT, "a snowy hill")


def test_attempts_to_go_on_back_off_in_one_line(page: Page, world: ScriptedWorld) -> None:
    for num in (2, 3):
        world.close(1006)
        world.wait_for_init(num)
    world.close(1012, "draining")
    wait_for_text(page, "toast", "Your walk goes on in 4 s (try 3 of 8).")
    assert page.is_hidden("#card")
    page.keyboard.press("Escape")
    page.wait_for_selector("#enter:visible")


def test_a_move_is_one_line(page: Page, world: ScriptedWorld) -> None:
    world.send({"type": "moved", "world_chunk_index": 1})
    wait_for_text(page, "toast", "Your world has moved to another machine, and goes on.")
    world.play(world_index=1)
    assert page.evaluate("lingbot.state") == "playing"


def test_a_world_that_has_moved_is_resumed_where_it_is(page: Page, world: ScriptedWorld) -> None:
    world.send({"type": "moved", "world_chunk_index": 1, "resume_token": "other.s2.secret"})
    wait_for_text(page, "toast", "Your world has moved to another machine, and goes on.")
    world.close(1006)
    assert world.wait_for_init(2)["resume"] == "other.s2.secret"


def test_a_server_that_goes_away_is_announced_and_resumed(page: Page, world: ScriptedWorld) -> None:
    world.send({"type": "reconnect", "content": "this replica is being replaced"})
    wait_for_text(page, "toast", "This server goes away, and another one takes over.")
    world.close(1012, "this replica is being replaced")
    assert world.wait_for_init(2)["resume"] == "group.s1.secret"


def test_a_walk_that_another_page_took_over_is_not_taken_back(
    page: Page, world: ScriptedWorld
) -> None:
    text = "another socket goes on with this session"
    world.send({"type": "error", "code": "taken_over", "content": text})
    world.close(1000, text)
    card = read_card(page)
    assert (card["title"], card["retry"]) == ("This walk goes on elsewhere", "")
    page.wait_for_timeout(1500)
    assert len(world.inits) == 1


def test_leaving_closes_properly_so_that_the_session_ends(page: Page, world: ScriptedWorld) -> None:
    codes: list[int | None] = []
    world.sockets[-1].on_close(lambda code, reason: codes.append(code))
    page.keyboard.press("Escape")
    world.wait(lambda: bool(codes))
    assert codes == [1000]


def test_a_session_of_the_server_is_resumed_after_a_cut(
    page: Page, server: SimpleNamespace
) -> None:
    sockets: list[WebSocket] = []
    page.on("websocket", lambda socket: sockets.append(socket))
    enter(page)
    page.click("[popovertarget=settings]")
    page.select_option("#live-format", "webp")
    page.keyboard.press("Escape")
    page.keyboard.down("w")
    page.wait_for_function("lingbot.stats.codec === 'webp'")
    page.evaluate(WATCH_SCREENS)
    index = page.evaluate("lingbot.stats.worldChunkIndex")
    num_specs = len(server.world.specs)
    server.cut()
    while len(sockets) < 2:
        page.wait_for_timeout(10)
    play_until(page, index + 1)
    assert page.evaluate("lingbot.stats.codec") == "webp"
    wait_for_actions(page, ["w"])  # without another keydown
    assert set(page.evaluate("screens")) <= {"playing"}
    assert len(server.world.specs) == num_specs, "a second world"
    assert server.world.detached == set()
