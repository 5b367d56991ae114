"""Worlds that the page turns back and forks."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from playwright.sync_api import Page

from benchmarks.page import enter
from tests.browser.driver import fake_visibility, play_until, shown_frame, wait_for_text
from tests.browser.fake_server import chunk, grey
from tests.browser.scripted.world import (
    GONE,
    OUTPUT_FIELDS,
    SESSION,
    SNAPSHOT,
    ScriptedWorld,
    wait_for_moments,
)

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def moments(page: Page) -> list[str]:
    return page.locator("#moments button").all_inner_texts()


def play_moments(page: Page, world: ScriptedWorld) -> list[str]:
    """Play the chunks 2 and 4 of the world after its first one. Each has a moment."""
    wait_for_moments(page, 1)
    for num in (2, 3):
        page.wait_for_timeout(1000)  # one moment a second is made
        world.play(world_index=2 * (num - 1))
        wait_for_moments(page, num)
    return moments(page)


def clock(chunk_index: int) -> str:
    """The world's time at the start of a chunk."""
    return f"0:{max(0, 12 * chunk_index - 3) // 16:02}"


def test_a_chosen_moment_turns_the_world_back(page: Page, world: ScriptedWorld) -> None:
    clocks = play_moments(page, world)
    fake_visibility(page)
    page.evaluate("hide(true)")  # the player holds the frames
    page.evaluate("async () => { await lingbot.lastFrame(); }")  # the worker has heard of it
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
    wait_for_text(page, "toast", f"Back at {clocks[1]}.")
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


def test_a_preview_of_another_past_is_no_moment(page: Page, world: ScriptedWorld) -> None:
    """The world is turned back while the preview is encoded. The next one is a moment."""
    wait_for_moments(page, 1)
    page.evaluate(
        """() => {
            const { toBlob } = HTMLCanvasElement.prototype;
            HTMLCanvasElement.prototype.toBlob = function (resolve, ...format) {
                HTMLCanvasElement.prototype.toBlob = toBlob;
                toBlob.call(this, (blob) => { window.encode = () => resolve(blob); }, ...format);
            };
        }"""
    )
    page.wait_for_timeout(1000)  # one preview a second is made
    world.play(world_index=1)
    page.wait_for_function("window.encode !== undefined")
    page.keyboard.press("b")
    event_id = world.wait_for_event("rewind")["event_id"]
    world.send({"type": "rewound", "event_id": event_id, "seed": 42, "world_chunk_index": 0})
    wait_for_text(page, "toast", "Back at 0:00.")
    page.evaluate("async () => { encode(); }")
    assert moments(page) == []
    page.wait_for_timeout(1000)
    world.play(world_index=0)
    wait_for_moments(page, 1)


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


def test_a_key_steps_back_and_again_from_there(page: Page, world: ScriptedWorld) -> None:
    """A chunk is 0.75 s, so 5 s are 7 chunks."""
    wait_for_moments(page, 1)
    world.play(world_index=20)
    page.keyboard.press("b")
    page.keyboard.press("b")
    world.wait_for_event("rewind", 2)
    assert world.events("rewind") == [{"chunk_index": 13}, {"chunk_index": 6}]
    page.click("[popovertarget=timeline]")
    page.click("#step-back")
    world.wait_for_event("rewind", 3)
    assert world.events("rewind")[2] == {"chunk_index": 0}, "no further than the start"


def test_a_moment_that_the_server_does_not_keep_goes(page: Page, world: ScriptedWorld) -> None:
    clocks = play_moments(page, world)
    page.click("[popovertarget=timeline]")
    page.click("#moments button >> nth=1")
    text = "`payload.chunk_index`: 2, expected 9 to 12"
    world.send(
        {
            "type": "error",
            "code": "refused",
            "content": text,
            "field": "payload.chunk_index",
            "event_id": world.wait_for_event("rewind")["event_id"],
        }
    )
    wait_for_text(page, "toast", "The server does not keep that moment any more.")
    assert moments(page) == clocks[2:]


def test_moments_that_a_resumed_session_does_not_have_go(page: Page, world: ScriptedWorld) -> None:
    play_moments(page, world)
    earliest = 2
    world.close(1006)
    world.wait_for_init(2)
    world.open(world_chunk_index=earliest + 1, earliest_chunk_index=earliest)
    assert moments(page)[0] == clock(earliest)
    page.keyboard.press("b")
    assert world.wait_for_event("rewind")["payload"] == {"seconds": 5}, "no further than is kept"


def test_a_step_back_beyond_the_moments_is_in_seconds(page: Page) -> None:
    """A world from a file has moments that the page never saw."""
    world = ScriptedWorld(page)
    file = {"name": "hill.world", "mimeType": "", "buffer": SNAPSHOT[:9]}
    page.set_input_files("#open", file)  # type: ignore[arg-type]
    world.wait_for_init(1)
    world.open(world_chunk_index=40)
    page.keyboard.press("b")
    assert world.wait_for_event("rewind")["payload"] == {"seconds": 5}


def test_a_typed_b_is_no_step_back(page: Page, world: ScriptedWorld) -> None:
    page.focus("#live-prompt")
    page.keyboard.press("b")
    world.play(world_index=1)
    assert world.events("rewind") == []


def test_the_strip_is_used_with_the_keyboard_alone(page: Page, world: ScriptedWorld) -> None:
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


@pytest.mark.parametrize(
    ("added", "shown"),
    [
        (range(0, 301, 10), [f"{one // 60}:{one % 60:02}" for one in range(180, 301, 10)]),
        ([0, 0.75, 2.25, 3, 3.75], ["0:00", "0:02", "0:03"]),
    ],
    ids=["two minutes", "one moment a second"],
)
def test_the_strip_holds(page: Page, added: Sequence[float], shown: list[str]) -> None:
    clocks = page.evaluate(
        """async (added) => {
            const { Timeline } = await import("/static/ui/timeline.js");
            const timeline = new Timeline(() => {});
            const canvas = new OffscreenCanvas(2, 1);
            canvas.getContext("2d");
            const image = await canvas.convertToBlob();
            for (const [chunkIndex, seconds] of added.entries()) {
                timeline.add({ chunkIndex, seconds, image });
                await document.querySelector("#moments li:last-child img").decode();
            }
            return [...document.querySelectorAll("#moments span")].map((text) => text.innerText);
        }""",
        list(added),
    )
    assert clocks == shown


def test_a_fork_opens_in_a_new_tab(page: Page, world: ScriptedWorld) -> None:
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
    world = ScriptedWorld(page)
    page.goto(f"{server.http}/#fork=abc")  # a new fragment alone loads no page, so it reloads
    world.wait_for_init(1)
    world.send(GONE)
    page.wait_for_selector("#start-notice:visible")
    line = f"This fork cannot be opened: {GONE['content']}"
    assert page.inner_text("#start-notice") == line


def test_a_browser_that_opens_no_tab_shows_a_link(page: Page, world: ScriptedWorld) -> None:
    page.evaluate("() => { window.open = () => null; }")
    page.click("[popovertarget=portable]")
    page.click("#fork")
    event = world.wait_for_event("fork")
    world.send({"type": "forked", "event_id": event["event_id"], "token": "abc"})
    page.wait_for_selector("text=Open the fork")
    assert page.get_attribute("#toast a", "href") == f"{page.url}#fork=abc"


def test_a_world_of_the_server_is_rewound_and_forked(page: Page, server: SimpleNamespace) -> None:
    enter(page)
    play_until(page, 9)
    page.keyboard.press("b")
    wait_for_text(page, "toast", "Back at 0:")
    assert "rewind" in [name for _, name, *_ in server.world.commands]
    play_until(page, 3)
    page.click("[popovertarget=portable]")
    with page.context.expect_page() as opened:
        page.click("#fork")
    play_until(opened.value, 4)
    assert len(server.world.live) == 2
    opened.value.close()
