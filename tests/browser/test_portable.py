"""The page and worlds that are saved, kept, opened, rewound, forked and resumed."""

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page

from tests.browser.driver import fake_visibility, read_card, shown_frame
from tests.browser.fake_server import ScriptedServer, chunk, grey, serve_page
from tests.transport.conftest import FakeWorld

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("portable")]

SESSION = {
    "type": "session",
    "session_id": "s1",
    "width": 112,
    "height": 64,
    "fps": 16,
    "chunk_latent_frames": 3,
    "first_chunk_frames": 9,
    "chunk_frames": 12,
    "encoding": "raw",
    "limits": {},
    "seed": 42,
    "world_chunk_index": 0,
    "resume_token": "group.s1.secret",
    "resume_grace_s": 60.0,
}
OUTPUT_FIELDS = {"type", "fps", "extensions", "realtime_cut_over", "realtime_output_format"}
GONE = {"type": "error", "code": "session_gone", "content": "no world waits for this token"}
REFUSED = {
    "type": "error",
    "code": "refused",
    "field": "snapshot.fingerprint",
    "content": "`snapshot.fingerprint`: 'a', expected 'b'",
}
SNAPSHOT = bytes(range(256)) * 4000  # 1 MB


class World(ScriptedServer):
    """A scripted server with the steps that these tests share."""

    def __init__(self, page: Page) -> None:
        super().__init__(page.context)
        self.page = page
        self.num_chunks = 0

    def wait(self, is_there: Callable[[], bool]) -> None:
        while not is_there():
            self.page.wait_for_timeout(10)

    def wait_for_init(self, num: int) -> dict[str, Any]:
        """The `num`th init of the page, counted from 1."""
        self.wait(lambda: len(self.inits) >= num)
        return self.inits[num - 1]

    def wait_for_event(self, kind: str, num: int = 1) -> dict[str, Any]:
        """The `num`th event of this kind, counted from 1."""

        def events() -> list[dict[str, Any]]:
            return [one for one in self.received if one.get("kind") == kind]

        self.wait(lambda: len(events()) >= num)
        return events()[num - 1]

    def open(self, **changes: Any) -> None:
        """Answer an init, and play one chunk."""
        self.num_chunks = 0
        self.send(SESSION | changes)
        self.play(world_index=changes.get("world_chunk_index", 0))

    def play(self, *, world_index: int, level: int = 90) -> None:
        """Send a chunk and wait until its first frame is shown."""
        self.send(*chunk(grey(12, level), index=self.num_chunks, world_index=world_index))
        self.num_chunks += 1
        self.page.wait_for_function(
            "index => lingbot.stats?.shownChunkIndex === index", arg=world_index
        )

    def answer_save(self, world_index: int, num: int = 1) -> None:
        self.send(
            {
                "type": "snapshot",
                "event_id": self.wait_for_event("save", num)["event_id"],
                "world_chunk_index": world_index,
                "data": SNAPSHOT,
            }
        )


@pytest.fixture(scope="module")
def server() -> Iterator[SimpleNamespace]:
    """Serves the page. Its sockets are scripted."""
    with serve_page(FakeWorld(size=(112, 64))) as server:
        yield server


@pytest.fixture
def world(page: Page) -> World:
    """The page plays the first chunk of a world of a scripted server."""
    world = World(page)
    page.click("#enter")
    world.wait_for_init(1)
    world.open()
    return world


def keep(page: Page, world: World, world_index: int = 1) -> None:
    """Let the page keep its world now."""
    page.evaluate("() => { window.keeping = lingbot.keep(); }")
    world.answer_save(world_index)
    page.evaluate("keeping")


def offer(page: Page) -> str:
    page.wait_for_selector("#continue:visible")
    return page.inner_text("#continue")


# ---- save, open and continue


def test_a_saved_world_is_a_file(page: Page, world: World, tmp_path: Path) -> None:
    page.click("[popovertarget=portable]")
    with page.expect_download() as download:
        page.click("#save")
        world.answer_save(1)
    assert re.fullmatch(r"lingbot-[\d-]+T[\d-]+\.world", download.value.suggested_filename)
    download.value.save_as(tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == SNAPSHOT
    page.wait_for_selector("text=The world was saved to a file.")


def test_an_error_of_the_server_is_one_line_and_the_walk_goes_on(page: Page, world: World) -> None:
    page.click("[popovertarget=portable]")
    page.click("#save")
    event_id = world.wait_for_event("save")["event_id"]
    world.send({"type": "error", "code": "refused", "content": "not now", "event_id": event_id})
    page.wait_for_selector("#toast:has-text('not now')")
    world.play(world_index=1)
    assert page.evaluate("lingbot.state") == "playing"


def test_a_kept_world_goes_on_after_a_reload(page: Page, world: World) -> None:
    page.fill("#live-prompt", "a hill")
    page.press("#live-prompt", "Enter")
    keep(page, world)
    page.reload()
    assert "0:00 into a walk" in offer(page)
    assert page.evaluate("document.querySelector('#continue-image').naturalWidth") == 210
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
    world = World(page)
    page.click("#enter")
    world.wait_for_init(1)
    world.open()
    assert page.evaluate("periods") == [10_000]
    world.answer_save(1)  # the page asks for it by itself
    page.wait_for_function("() => lingbot.keep().then(() => true)")
    assert len(world.events("save")) == 1, "nothing was new"
    world.play(world_index=1)
    page.evaluate("() => { lingbot.keep(); }")
    world.wait_for_event("save", 2)


def test_a_refused_world_is_forgotten_with_a_line(page: Page, world: World) -> None:
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


def test_a_busy_server_is_no_reason_to_forget(page: Page, world: World) -> None:
    keep(page, world)
    page.reload()
    offer(page)
    page.click("#continue")
    world.wait_for_init(2)
    world.send({"type": "error", "code": "busy", "content": "full", "retry_after_s": 60})
    assert read_card(page)["title"] == "Every world is taken"
    page.click("#back")
    offer(page)


def test_forget_forgets(page: Page, world: World) -> None:
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
    world = World(page)
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


# ---- rewind and fork


def moments(page: Page) -> list[str]:
    return page.locator("#moments button").all_inner_texts()


def wait_for_moments(page: Page, num: int) -> None:
    page.wait_for_function(
        "num => document.querySelectorAll('#moments img').length >= num", arg=num
    )


def play_moments(page: Page, world: World) -> list[str]:
    """Play chunks until there are three moments, of which at most one in a second is made."""
    wait_for_moments(page, 1)
    while len(moments(page)) < 3:
        world.play(world_index=world.num_chunks)
    return moments(page)


def clock(chunk_index: int) -> str:
    """The world's time at the start of a chunk."""
    return f"0:{max(0, 12 * chunk_index - 3) // 16:02}"


def test_a_chosen_moment_turns_the_world_back(page: Page, world: World) -> None:
    clocks = play_moments(page, world)
    fake_visibility(page)
    page.evaluate("hide(true)")  # the player holds the frames from now on
    page.wait_for_timeout(200)
    queued = page.evaluate("lingbot.stats.framesQueued")
    world.send(*chunk(grey(12, 10), index=world.num_chunks))
    page.wait_for_function("num => lingbot.stats.framesQueued >= num", arg=queued + 12)
    page.click("[popovertarget=timeline]")
    page.click("#moments button >> nth=1")
    event = world.wait_for_event("rewind")
    index = event["payload"]["chunk_index"]
    assert clock(index) == clocks[1]
    rewound = {"type": "rewound", "event_id": event["event_id"], "seed": 42}
    world.send(rewound | {"world_chunk_index": index})
    page.wait_for_selector(f"text=Back at {clocks[1]}.")
    assert moments(page) == clocks[:1]
    page.evaluate("hide(false)")
    world.num_chunks += 1
    world.send(*chunk(grey(12, 200), index=world.num_chunks, world_index=index))
    page.wait_for_function("index => lingbot.stats.chunkIndex === index", arg=world.num_chunks)
    page.wait_for_function("num => lingbot.stats.framesQueued < 12")
    (shown, _), pixels = shown_frame(page)
    assert shown == world.num_chunks, "a frame of the other past"
    assert pixels.mean() == pytest.approx(200, abs=2)
    assert page.evaluate("lingbot.stats.framesCut") >= 12
    assert page.evaluate("lingbot.stats.worldChunkIndex") == index


def test_a_preview_is_of_the_first_frame_of_a_chunk_and_one_a_second_at_most(page: Page) -> None:
    """Chunks of 0.75 s: every second one has a preview."""
    previews = page.evaluate(
        """async () => {
            const { FramePlayer } = await import("/static/player/frame_player.js");
            const previews = [];
            let painted = null;
            const canvas = {
                paintFrame: (frame) => { painted = frame; },
                makePreview: async () => [painted.chunkIndex, painted.frameIndex],
            };
            let onDecoded = null;
            const onReport = ({ report, image, worldChunkIndex }) => {
                if (report === "decoded") onDecoded();
                if (report === "preview") previews.push([...image, worldChunkIndex]);
            };
            const player = new FramePlayer({ fps: 16, chunkFrames: 12, canvas, onReport });
            const size = { width: 1, height: 1, num_frames: 12, payload: new Uint8Array(36) };
            for (let chunk = 0; chunk < 5; chunk++) {
                const decoded = new Promise((resolve) => { onDecoded = resolve; });
                player.addBatch({
                    ...size,
                    content_type: "application/x-raw-rgb",
                    chunk_index: chunk,
                    world_chunk_index: 30 + chunk,
                    frame_batch_index: 0,
                    is_final_frame_batch: true,
                });
                await decoded;
                for (let at = 0; at < 12; at++) player.tick(chunk * 750 + at * 62.5);
            }
            await new Promise((resolve) => setTimeout(resolve));
            return previews;
        }"""
    )
    assert previews == [[0, 0, 30], [2, 0, 32], [4, 0, 34]]


def test_a_key_steps_back_and_again_from_there(page: Page, world: World) -> None:
    """A chunk is 0.75 s, so 5 s are 7 chunks."""
    world.play(world_index=20)
    page.keyboard.press("b")
    page.keyboard.press("b")
    world.wait_for_event("rewind", 2)
    assert world.events("rewind") == [{"chunk_index": 13}, {"chunk_index": 6}]
    page.click("[popovertarget=timeline]")
    page.click("#step-back")
    world.wait_for_event("rewind", 3)
    assert world.events("rewind")[2] == {"chunk_index": 0}, "no further than the start"


def test_a_typed_b_is_no_step_back(page: Page, world: World) -> None:
    page.focus("#live-prompt")
    page.keyboard.press("b")
    world.play(world_index=1)
    assert world.events("rewind") == []


def test_the_strip_is_used_with_the_keyboard_alone(page: Page, world: World) -> None:
    clocks = play_moments(page, world)
    page.focus("[popovertarget=timeline]")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    focused = "document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(focused) == f"Go back to {clocks[2]}"
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == f"Go back to {clocks[1]}"
    page.keyboard.press("Home")
    assert page.evaluate(focused) == f"Go back to {clocks[0]}"
    assert page.evaluate("lingbot.stats.held") == [], "the arrows turned the view"
    page.keyboard.press("Enter")
    assert world.wait_for_event("rewind")["payload"] == {"chunk_index": 0}
    assert page.evaluate("document.activeElement.innerText") == "Rewind"


def test_the_strip_holds_two_minutes(page: Page) -> None:
    clocks = page.evaluate(
        """async () => {
            const { Timeline } = await import("/static/ui/timeline.js");
            const timeline = new Timeline(() => {});
            const canvas = new OffscreenCanvas(2, 1);
            canvas.getContext("2d");
            const image = await canvas.convertToBlob();
            for (let seconds = 0; seconds <= 300; seconds += 10) {
                timeline.add({ chunkIndex: seconds, seconds, image });
                await document.querySelector("#moments li:last-child img").decode();
            }
            return [...document.querySelectorAll("#moments span")].map((text) => text.innerText);
        }"""
    )
    assert (clocks[0], clocks[-1], len(clocks)) == ("3:00", "5:00", 13)


def test_a_fork_opens_in_a_new_tab(page: Page, world: World) -> None:
    page.click("[popovertarget=portable]")
    with page.context.expect_page() as opened:
        page.click("#fork")
        event = world.wait_for_event("fork")
        world.send(
            {
                "type": "forked",
                "event_id": event["event_id"],
                "world_chunk_index": 1,
                "token": "a+b/c=",
                "expires_in_s": 600,
            }
        )
    init = world.wait_for_init(2)
    assert init.keys() == OUTPUT_FIELDS | {"fork"}
    assert init["fork"] == "a+b/c="
    assert "a+b" not in opened.value.url, "the token stays in the address"
    world.send(SESSION | {"world_chunk_index": 1}, *chunk(grey(12, 50), index=0, world_index=1))
    opened.value.wait_for_function("lingbot.state === 'playing'")
    assert page.evaluate("lingbot.state") == "playing"
    opened.value.close()


def test_a_fork_that_is_gone_is_explained_on_the_start_screen(
    page: Page, server: SimpleNamespace
) -> None:
    world = World(page)
    page.goto(f"{server.http}/#fork=abc")  # a new fragment alone loads no page, so it reloads
    world.wait_for_init(1)
    world.send(GONE)
    page.wait_for_selector("#start-notice:visible")
    line = f"This fork cannot be opened: {GONE['content']}"
    assert page.inner_text("#start-notice") == line


def test_a_browser_that_opens_no_tab_shows_a_link(page: Page, world: World) -> None:
    page.evaluate("() => { window.open = () => null; }")
    page.click("[popovertarget=portable]")
    page.click("#fork")
    event = world.wait_for_event("fork")
    world.send({"type": "forked", "event_id": event["event_id"], "token": "abc"})
    page.wait_for_selector("text=Open the fork")
    assert page.get_attribute("#toast a", "href") == f"{page.url}#fork=abc"


# ---- lost sockets


def last_frame() -> dict[str, Any]:
    data = io.BytesIO()
    Image.fromarray(np.full((64, 112, 3), 150, np.uint8)).save(data, "PNG")
    return {"type": "last_frame", "content_type": "image/png", "data": data.getvalue()}


WATCH_SCREENS = """() => {
    window.screens = [];
    new MutationObserver(() => screens.push(document.body.dataset.screen))
        .observe(document.body, { attributes: true, attributeFilter: ["data-screen"] });
}"""


@pytest.mark.parametrize("code", [1001, 1006, 1012])
def test_a_lost_socket_is_resumed_and_the_last_frame_stays(
    page: Page, world: World, code: int
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
    world = World(page)
    file = {"name": "hill.world", "mimeType": "", "buffer": SNAPSHOT[:9]}
    page.set_input_files("#open", file)  # type: ignore[arg-type]
    world.wait_for_init(1)
    world.send(SESSION | {"world_chunk_index": 7}, last_frame())
    canvas = page.locator("#world")
    page.wait_for_function("document.querySelector('#world').width === 112")
    with Image.open(io.BytesIO(canvas.screenshot())) as image:
        assert image.getpixel((2, image.height // 2)) != (0, 0, 0, 255)


def test_a_session_that_is_gone_goes_on_from_the_kept_world(page: Page, world: World) -> None:
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
    page: Page, world: World
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


def test_a_session_that_is_gone_with_nothing_kept_is_no_other_world(
    page: Page, world: World
) -> None:
    world.close(1006)
    world.wait_for_init(2)
    world.send(GONE)
    assert read_card(page)["title"] == "That world is gone"
    page.wait_for_timeout(1500)
    assert len(world.inits) == 2, "a new world, unasked"


def test_attempts_to_go_on_back_off_in_one_line(page: Page, world: World) -> None:
    for num in (2, 3):
        world.close(1006)
        world.wait_for_init(num)
    world.close(1012, "draining")
    page.wait_for_selector("text=Your walk goes on in 4 s (try 3 of 8).")
    assert page.is_hidden("#card")
    page.keyboard.press("Escape")
    page.wait_for_selector("#enter:visible")


def test_a_move_is_one_line(page: Page, world: World) -> None:
    world.send({"type": "moved", "world_chunk_index": 1})
    page.wait_for_selector("text=Your world has moved to another machine, and goes on.")
    world.play(world_index=1)
    assert page.evaluate("lingbot.state") == "playing"


def test_a_world_that_has_moved_is_resumed_where_it_is(page: Page, world: World) -> None:
    world.send({"type": "moved", "world_chunk_index": 1, "resume_token": "other.s2.secret"})
    page.wait_for_selector("text=Your world has moved to another machine, and goes on.")
    world.close(1006)
    assert world.wait_for_init(2)["resume"] == "other.s2.secret"


def test_a_server_that_goes_away_is_announced_and_resumed(page: Page, world: World) -> None:
    world.send({"type": "reconnect", "content": "this replica is being replaced"})
    page.wait_for_selector("text=This server goes away, and another one takes over.")
    world.close(1012, "this replica is being replaced")
    assert world.wait_for_init(2)["resume"] == "group.s1.secret"


def test_leaving_closes_properly_so_that_the_session_ends(page: Page, world: World) -> None:
    codes: list[int | None] = []
    world.sockets[-1].on_close(lambda code, reason: codes.append(code))
    page.keyboard.press("Escape")
    world.wait(lambda: bool(codes))
    assert codes == [1000]
