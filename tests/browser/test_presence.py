"""The page while its client waits, is away, or has little time left."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec.structs import replace
from playwright.sync_api import Page

from tests.browser.driver import (
    fake_visibility,
    listen_to_client,
    read_card,
    texts_of,
    wait_for_text,
)
from tests.browser.fake_server import ScriptedServer, chunk, grey, serve_page
from tests.transport.conftest import FakeWorld
from transport.wire.limits import ClientLimits

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("presence")]

PAUSED = {"type": "paused", "reason": "idle"}
RESUMED = {"type": "resumed"}
CORNER = (20, 400)


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """The whole transport around a world that generates shades of grey. It pauses after 2 s.

    The parameter is the longest pause in seconds.
    """
    limits = ClientLimits(idle_after_s=2.0, max_paused_s=getattr(request, "param", 600.0))
    world = FakeWorld(size=(112, 64))
    world.info = replace(world.info, fps=16)
    with serve_page(world, limits) as server:
        yield server


@pytest.fixture
def scripted(page: Page) -> ScriptedServer:
    """A server that has received an init and has answered nothing."""
    server = ScriptedServer(page)
    page.click("#enter")
    page.wait_for_function("lingbot.state === 'opening'")
    wait_for_messages(page, server, 1)
    return server


def wait_for_messages(page: Page, server: ScriptedServer, num: int) -> None:
    while len(server.received) < num:
        page.wait_for_timeout(10)


def play(page: Page, server: ScriptedServer, *, index: int = 0) -> None:
    """Send a chunk and wait until its first frame is shown."""
    shown = page.evaluate("lingbot.stats.framesShown")
    server.send(*chunk(grey(12, 90 + index), index=index))
    page.wait_for_function("shown => lingbot.stats.framesShown > shown", arg=shown)


def acks(server: ScriptedServer) -> list[int]:
    return [one["chunk_index"] for one in server.received if one["type"] == "ack"]


def take_screenshot(page: Page, name: str) -> None:
    """Keep a picture of the page, if SCREENSHOTS names a folder for it."""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def card(page: Page) -> tuple[str, str]:
    return page.inner_text("#card-title"), page.inner_text("#card-text")


@pytest.mark.parametrize(
    ("message", "title", "text"),
    [
        (
            {"type": "queued", "position": 3, "all_taken": True, "estimate_s": 40},
            "Every world is taken",
            "You are 3rd in line, about 40 s.",
        ),
        (
            {"type": "queued", "position": 11, "all_taken": True, "estimate_s": 150},
            "Every world is taken",
            "You are 11th in line, about 3 min.",
        ),
        ({"type": "queued", "position": 1}, "Others open a world, too", "You are 1st in line."),
        (
            {"type": "starting"},
            "A world is starting",
            "A machine is getting ready for you. This can take a few minutes.",
        ),
    ],
)
def test_a_waiting_client_reads_its_place(
    page: Page, scripted: ScriptedServer, message: dict[str, object], title: str, text: str
) -> None:
    scripted.send(message)
    page.wait_for_function("title => lingbot.state !== 'opening'", arg=title)
    assert card(page) == (title, text)
    assert page.is_visible("#spinner")
    take_screenshot(page, f"waiting-{message['type']}-{message.get('position')}")


@pytest.mark.parametrize("by", ["control", "other key", "mouse"])
def test_a_pause_is_shown_and_any_key_or_touch_ends_it(
    page: Page, scripted: ScriptedServer, by: str
) -> None:
    play(page, scripted)
    scripted.send(PAUSED)
    page.wait_for_function("lingbot.state === 'paused'")
    assert card(page) == ("Paused", "Press any key, or touch the picture, to go on.")
    assert not page.is_visible("#spinner")
    take_screenshot(page, "paused")
    match by:
        case "control":
            page.keyboard.down("w")
        case "other key":
            page.keyboard.press("Enter")
        case "mouse":
            page.mouse.click(*CORNER)
    num = 3 if by != "control" else 4  # the init, the ack and the visibility
    wait_for_messages(page, scripted, num)
    assert scripted.events("visibility") == ["visible"]
    assert len(scripted.events("camera_actions")) == (by == "control")
    scripted.send(RESUMED)
    page.wait_for_function("lingbot.state === 'playing'")
    assert not page.is_visible("#card")
    play(page, scripted, index=1)


def test_a_chunk_on_its_way_does_not_end_a_pause(page: Page, scripted: ScriptedServer) -> None:
    play(page, scripted)
    scripted.send(PAUSED)
    play(page, scripted, index=1)
    assert page.evaluate("lingbot.state") == "paused"
    assert page.is_visible("#card")


def test_a_pause_counts_for_no_late_frame_and_no_buffer(
    page: Page, scripted: ScriptedServer
) -> None:
    play(page, scripted)
    scripted.send(PAUSED)
    page.wait_for_timeout(4000)  # 64 frames, of which 12 were left
    before = page.evaluate("lingbot.stats")
    scripted.send(RESUMED)
    page.wait_for_function("lingbot.state === 'playing'")
    scripted.send(*chunk(grey(12, 91), index=1))
    after = page.evaluate(
        """async (before) => {
            while (lingbot.stats.framesShown === before.framesShown) {
                await new Promise((resolve) => setTimeout(resolve));
            }
            return lingbot.stats;
        }""",
        before,
    )
    assert after["framesLate"] - before["framesLate"] < 40, "it does not draw each frame"
    assert after["targetMs"] == before["targetMs"]


def test_a_hidden_page_says_so_and_comes_back(page: Page, scripted: ScriptedServer) -> None:
    fake_visibility(page)
    play(page, scripted)
    page.evaluate("hide(true)")
    page.evaluate("hide(false)")
    wait_for_messages(page, scripted, 4)
    assert scripted.events("visibility") == ["hidden", "visible"]


def test_a_page_that_is_hidden_when_its_world_opens_says_so(
    page: Page, scripted: ScriptedServer
) -> None:
    fake_visibility(page)
    page.evaluate("hide(true)")
    scripted.send({"type": "session", "fps": 16, "chunk_frames": 12})
    wait_for_messages(page, scripted, 3)
    assert scripted.events("visibility") == ["hidden", "hidden"]


def test_a_hidden_page_acknowledges_nothing_until_it_is_shown(
    page: Page, scripted: ScriptedServer
) -> None:
    """A server that has not heard that the page is hidden holds its world for want of acks."""
    fake_visibility(page)
    play(page, scripted)
    while len(acks(scripted)) < 1:
        page.wait_for_timeout(10)
    page.evaluate("hide(true)")
    for index in (1, 2):
        scripted.send(*chunk(grey(12, 90), index=index))
    page.wait_for_function("lingbot.stats.chunkIndex === 2", polling=50)
    assert acks(scripted) == [0]
    page.evaluate("hide(false)")
    while len(acks(scripted)) < 2:
        page.wait_for_timeout(10)
    assert acks(scripted) == [0, 2]


def test_an_announced_end_is_counted_down_and_may_be_taken_back(
    page: Page, scripted: ScriptedServer
) -> None:
    play(page, scripted)
    scripted.send(PAUSED, {"type": "ending", "reason": "idle", "in_s": 60})
    wait_for_text(page, "ending", "This walk ends in 60 s, unless you press a key.")
    wait_for_text(page, "ending", "This walk ends in 59 s, unless you press a key.")
    take_screenshot(page, "ending-idle")
    scripted.send(RESUMED)
    page.wait_for_selector("#ending", state="hidden")


def test_the_longest_session_is_counted_down_and_explained(
    page: Page, scripted: ScriptedServer
) -> None:
    play(page, scripted)
    scripted.send({"type": "ending", "reason": "longest_session", "in_s": 60})
    wait_for_text(page, "ending", "This walk ends in 60 s.")
    take_screenshot(page, "ending-longest")
    text = "the session was open for 600 s, its longest time"
    scripted.send({"type": "error", "content": text, "code": "session_ended"})
    scripted.close(1000, text)
    ended = read_card(page)
    assert ended["title"] == "The walk has ended"
    assert ended["detail"] == "The session was open for 600 s, its longest time"
    assert ended["retry"] == "", "it would take a place again"
    assert not page.is_visible("#ending")
    take_screenshot(page, "ended")


def test_a_slow_world_is_told(page: Page, scripted: ScriptedServer) -> None:
    play(page, scripted)
    scripted.send({"type": "paced", "speed_percent": 45})
    wait_for_text(page, "toast", "The world runs at 45 % of its speed: its machine is busy")
    scripted.send({"type": "paced", "speed_percent": 100})
    wait_for_text(page, "toast", "The world is back at its full speed.")


def test_a_page_comes_back_when_the_server_said(page: Page, scripted: ScriptedServer) -> None:
    scripted.send(
        {"type": "error", "content": "the line is full", "code": "busy", "retry_after_s": 3}
    )
    scripted.close(1013, "the line is full")
    wait_for_text(page, "card-retry", "A new walk from the same picture in 3 s (try 1 of 8).")
    take_screenshot(page, "busy")
    while len(scripted.sockets) < 2:
        page.wait_for_timeout(50)
    assert page.evaluate("lingbot.state") in ("opening", "queued")


# ---- with the server's own decisions


def test_a_page_without_keys_is_paused_and_a_key_resumes_it(
    page: Page, server: SimpleNamespace
) -> None:
    page.click("#enter")
    page.wait_for_function("lingbot.state === 'paused'")
    num_steps = len(server.world.steps)
    page.wait_for_timeout(1000)
    assert len(server.world.steps) <= num_steps + 1, "at most the step that was under way"
    page.keyboard.down("w")
    page.wait_for_function(
        "lingbot.state === 'playing' && lingbot.stats.applied.actions.flat().includes('w')"
    )
    page.wait_for_timeout(2500)
    assert page.evaluate("lingbot.state") == "playing", "a held key keeps it active"


def test_a_hidden_page_is_paused_and_comes_back(page: Page, server: SimpleNamespace) -> None:
    fake_visibility(page)
    page.click("#enter")
    page.wait_for_function("lingbot.state === 'playing'")
    page.keyboard.down("w")
    page.evaluate("hide(true)")
    page.wait_for_function("lingbot.state === 'paused'")
    page.evaluate("hide(false)")
    page.wait_for_function("lingbot.state === 'playing'")


def test_a_hidden_page_lets_its_world_rest(page: Page, server: SimpleNamespace) -> None:
    """It acknowledges nothing, and nothing that it sends wakes the world or holds its speed."""
    sent = listen_to_client(page)
    fake_visibility(page)
    page.click("#enter")
    page.wait_for_function("lingbot.state === 'playing'")
    page.keyboard.down("w")
    page.wait_for_function("lingbot.state === 'playing' && lingbot.stats.chunkIndex >= 2")
    world = server.world
    num_pauses = len(world.pauses)
    page.evaluate("hide(true)")
    page.wait_for_function("lingbot.state === 'paused'")
    while len(world.pauses) == num_pauses:  # a step that was under way ends first
        page.wait_for_timeout(10)
    resting = len(world.steps)
    assert resting <= world.pauses[-1][1] + 1
    page.wait_for_timeout(3000)  # four chunks
    assert len(world.steps) == resting
    (hidden_at,) = (at for at, one in enumerate(sent) if one.get("payload") == "hidden")
    meanwhile = sent[hidden_at + 1 :]
    assert all(one["type"] != "ack" for one in meanwhile)
    assert {one.get("kind") for one in meanwhile} <= {"camera_actions", "save"}
    shown = page.evaluate("lingbot.stats.chunkIndex")
    page.evaluate("hide(false)")
    page.keyboard.down("w")  # a world without keys pauses, and a busy machine takes that long
    page.wait_for_function("lingbot.state === 'playing'")
    page.wait_for_function("index => lingbot.stats.chunkIndex > index + 2", arg=shown)


@pytest.mark.parametrize("server", [8.0], indirect=True)
def test_a_page_that_nobody_wakes_is_ended(page: Page) -> None:
    page.click("#enter")
    ended = read_card(page)
    assert ended["title"] == "The walk has ended"
    assert ended["detail"] == "The session was paused for 8 s, its longest pause"
    first = texts_of(page, "ending")[0]
    assert re.fullmatch(r"This walk ends in [12] s, unless you press a key\.", first)
