"""The mark of the speed: its sentence, its colour, and what the automatic format sends."""

from typing import Any

import pytest
from msgspec import msgpack
from playwright.sync_api import Page, expect

from benchmarks.chromium import STEP_MS
from tests.browser.driver import choose_format
from tests.browser.fake_server import chunk, grey
from tests.browser.scripted.world import ScriptedWorld, enter_scripted

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("saved")]

expect.set_options(timeout=STEP_MS)  # its own is short for busy machines
H264_STEP = {"format": "h264", "quality": 90, "width": 1}
FULL_JPEG = {
    "realtime_output_format": "jpeg",
    "output_compression": 90,
    "realtime_preview_max_width": 0,
}


@pytest.mark.parametrize(
    ("verdict", "change", "level", "text"),
    [
        (None, {}, "unknown", "Measuring the speed."),
        ((1, None), {}, "good", "The world runs at full speed: 16 frames a second."),
        ((0.75, "server"), {}, "fair", "The server makes 12 of 16 frames a second."),
        ((0.5, "server"), {}, "poor", "The server makes 8 of 16 frames a second."),
        ((0.5, "device"), {}, "poor", "This device is slow: it decodes 8 of 16 frames a second."),
        ((0.5, "unclear"), {}, "poor", "The world is slow: 8 of 16 frames a second arrive."),
        ((0.75, "line"), {}, "fair", "Your line is slow: 12 of 16 frames a second arrive."),
        (
            (0.75, "line"),
            {"isAuto": False},
            "fair",
            "Your line is slow: 12 of 16 frames a second arrive. "
            "The video format “Automatic” helps.",
        ),
        (
            (0.25, "line"),
            {"lowered": H264_STEP, "isLowest": True},
            "poor",
            "Your line is too slow for this world: 4 of 16 frames a second arrive.",
        ),
        ((1, None), {"lowered": H264_STEP}, "fair", "Your line is slow: switched to H.264."),
        (
            (1, None),
            {"lowered": H264_STEP | {"quality": 60}},
            "fair",
            "Your line is slow: switched to H.264 at a lower quality.",
        ),
        (
            None,
            {"lowered": {"format": "webp", "quality": 50, "width": 0.5}},
            "fair",
            "Your line is slow: switched to WebP with fewer pixels.",
        ),
    ],
)
def test_the_sentence_names_the_cause(
    page: Page,
    verdict: tuple[float, str | None] | None,
    change: dict[str, Any],
    level: str,
    text: str,
) -> None:
    given = None
    if verdict is not None:
        share, cause = verdict
        given = {"share": share, "level": "good" if cause is None else level, "cause": cause}
    said = page.evaluate(
        """async ({ verdict, figures }) => {
            const { describeSpeed } = await import("/static/ui/speed_words.js");
            return describeSpeed(verdict, figures);
        }""",
        {
            "verdict": given,
            "figures": {"fps": 16, "isAuto": True, "lowered": None, "isLowest": False} | change,
        },
    )
    assert said == {"level": level, "text": text}


def play(
    world: ScriptedWorld, *, period_ms: int, forward_ms: int, wait_ms: int = 0, num: int = 5
) -> None:
    """Send so many chunks, their last frames `wait_ms` after the first, and their figures.

    The page's clock stands still but for these waits. Without one the second message has one frame,
    too few bytes for the page to measure the line: the time between two messages of this process is
    as long as a busy machine makes it.
    """
    if wait_ms:
        world.page.evaluate(
            "() => { window.now ??= performance.now(); performance.now = () => now; }"
        )
    for _ in range(num):
        frames = grey(12 if wait_ms else 7, 90)
        parts = chunk(frames, index=world.num_chunks, name="jpeg", world_index=1)
        world.send(*parts[:-1])
        if wait_ms:
            world.page.evaluate("ms => { window.now += ms; }", wait_ms)
        world.send(parts[-1])
        world.send(
            {
                "type": "chunk_stats",
                "chunk_index": world.num_chunks,
                "num_frames": 12,
                "chunk_total_ms": period_ms,
                "pace_wait_ms": 0,
                "scheduler_forward_ms": forward_ms,
                "raw_payload_build_ms": 0,
            }
        )
        world.num_chunks += 1


def test_a_slow_server_is_named_and_announced_once(page: Page) -> None:
    world = enter_scripted(page)
    mark, status = page.locator("#speed"), page.locator("#speed-status")
    expect(mark).to_have_attribute("data-level", "unknown")
    expect(status).to_have_attribute("role", "status")
    play(world, period_ms=750, forward_ms=300)
    expect(mark).to_have_attribute("data-level", "good")
    page.wait_for_timeout(5000)  # announcements keep a distance
    play(world, period_ms=1000, forward_ms=1000)
    text = "The server makes 12 of 16 frames a second."
    expect(mark).to_have_attribute("data-level", "fair")
    expect(mark).to_have_attribute("title", text)
    expect(status).to_have_text(text)
    play(world, period_ms=1090, forward_ms=1090)
    expect(mark).to_have_attribute("title", "The server makes 11 of 16 frames a second.")
    expect(status).to_have_text(text)  # a number is no news
    page.focus("#speed")
    expect(status).to_have_text("The server makes 11 of 16 frames a second.")
    world.send({"type": "paused", "reason": "idle"})
    expect(mark).to_have_attribute("data-level", "unknown")
    expect(status).to_have_text("")
    assert not [one for one in world.received if one.get("kind") == "output"]


def test_the_mark_opens_the_figures_and_its_focus_shows_the_sentence(page: Page) -> None:
    world = enter_scripted(page)
    play(world, period_ms=750, forward_ms=300)
    text = "The world runs at full speed: 16 frames a second."
    expect(page.locator("#speed-text")).to_have_text(text)
    assert not page.is_visible("#figures")
    page.click("#speed")
    expect(page.locator("#figures")).to_be_visible()
    assert text in page.inner_text("#figures")
    expect(page.locator("#figures")).to_contain_text("300 ms")  # written every 250 ms
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    expect(page.locator("#speed")).to_be_focused()
    box = page.locator("#speed-status").bounding_box()
    assert box is not None and box["width"] > 100, "the sentence is not seen"


def test_the_frames_per_second_are_no_more_than_the_world_has(page: Page) -> None:
    """A key makes a chunk come early. The visitor's figure is bounded, the engineer's is not."""
    shown = page.evaluate(
        """async () => {
            const { Hud } = await import("/static/ui/hud.js");
            const { SessionStats } = await import("/static/session/stats.js");
            const stats = new SessionStats();
            stats.set({ mediaFps: 16 });
            new Hud(document).write({ ...stats.at(0), fps: 23.3 });
            return ["fps", "rate"].map((name) =>
                document.querySelector(`[data-stat=${name}]`).textContent);
        }"""
    )
    assert shown == ["16", "23.3"]


@pytest.mark.parametrize("size", [(1280, 800), (844, 390), (390, 844), (320, 480)])
def test_the_figures_cover_neither_the_mark_nor_its_bar(page: Page, size: tuple[int, int]) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    enter_scripted(page)
    page.click("#speed")
    figures = page.locator("#figures").bounding_box()
    mark = page.locator("#speed i").bounding_box()
    assert figures is not None and mark is not None
    assert figures["y"] >= mark["y"] + mark["height"]
    assert figures["x"] >= 0 and figures["x"] + figures["width"] <= size[0]
    assert figures["y"] + figures["height"] <= size[1]


def test_a_slow_line_changes_the_output_once_it_is_read(page: Page) -> None:
    """A chunk that was under way does not count; the next step is told as the encoding arrives."""
    world = enter_scripted(page)
    play(world, period_ms=750, forward_ms=300, wait_ms=2000, num=1)
    change = world.wait_for_event("output")
    assert change["payload"] == {
        "realtime_output_format": "h264",
        "output_compression": 60,
        "realtime_preview_max_width": 0,
    }
    play(world, period_ms=750, forward_ms=300, wait_ms=2000, num=1)
    page.wait_for_timeout(300)
    assert len(world.events("output")) == 1
    world.send({"type": "control_ack", "event_id": change["event_id"]})
    play(world, period_ms=2600, forward_ms=300, wait_ms=2000, num=1)
    lower = world.wait_for_event("output", 2)
    assert lower["payload"]["output_compression"] < 60
    expect(page.locator("#speed")).to_have_attribute("data-level", "fair")
    assert page.locator("#live-quality").is_disabled(), "the line chooses it"


def test_a_choice_by_hand_ends_the_automatic_one(page: Page) -> None:
    world = enter_scripted(page)
    play(world, period_ms=750, forward_ms=300)
    page.click("[popovertarget=settings]")
    expect(page.locator("#live-format option:checked")).to_have_text("Automatic: JPEG")
    page.select_option("#live-format", "webp")
    by_hand = FULL_JPEG | {"realtime_output_format": "webp"}
    assert world.wait_for_event("output")["payload"] == by_hand
    play(world, period_ms=2600, forward_ms=300, wait_ms=1300, num=2)
    page.wait_for_timeout(300)
    assert len(world.events("output")) == 1
    assert not page.locator("#live-quality").is_disabled()
    world.close(1006)
    init = world.wait_for_init(2)
    assert by_hand.items() <= init.items(), "the next session has it, too"
    world.open()
    page.select_option("#live-format", "auto")
    back = world.wait_for_event("output", 2)["payload"]
    assert back == FULL_JPEG


def test_h264_that_fails_on_the_server_while_lowered_gives_way_to_all_of_jpeg(page: Page) -> None:
    """The server keeps quality and width of the failed step, and no step is above the first."""
    world = enter_scripted(page)
    play(world, period_ms=750, forward_ms=300, wait_ms=2000, num=1)
    assert world.wait_for_event("output")["payload"]["realtime_output_format"] == "h264"
    failure = {"type": "warning", "code": "codec_failed", "content": "h264 failed"}
    world.send(failure)
    assert world.wait_for_event("output", 2)["payload"] == FULL_JPEG
    world.send(failure)
    page.wait_for_timeout(300)
    assert len(world.events("output")) == 2, "JPEG was requested already"


def test_h264_by_hand_that_cannot_be_decoded_is_chosen_no_more(page: Page) -> None:
    choose_format(page, "h264")
    world = enter_scripted(page)
    batch = msgpack.decode(chunk(grey(1, 90), index=1, name="h264")[0])
    world.send(batch | {"codec": "avc1.ffffff"})
    by_jpeg = world.wait_for_event("output")["payload"]
    assert by_jpeg["realtime_output_format"] == "jpeg"
    world.send({"type": "paused", "reason": "idle"})
    expect(page.locator("#speed")).to_have_attribute("data-level", "unknown")
    assert page.input_value("#live-format") == "jpeg"
    world.close(1006)
    assert by_jpeg.items() <= world.wait_for_init(2).items(), "the next session has it, too"


@pytest.mark.parametrize(("by_hand", "lowered_to"), [("webp", "h264"), ("h264", "webp")])
def test_only_h264_by_hand_that_fails_is_left_out_of_the_automatic_format(
    page: Page, by_hand: str, lowered_to: str
) -> None:
    choose_format(page, by_hand)
    world = enter_scripted(page)
    world.send({"type": "warning", "code": "codec_failed", "content": f"{by_hand} failed"})
    by_jpeg = world.wait_for_event("output")
    assert by_jpeg["payload"]["realtime_output_format"] == "jpeg"
    page.click("[popovertarget=settings]")
    page.select_option("#live-format", "auto")
    change = world.wait_for_event("output", 2)
    world.send({"type": "control_ack", "event_id": change["event_id"]})
    play(world, period_ms=750, forward_ms=300, wait_ms=2000, num=1)
    lowered = world.wait_for_event("output", 3)
    assert lowered["payload"]["realtime_output_format"] == lowered_to


def test_a_change_before_the_socket_is_open_goes_with_the_init(page: Page) -> None:
    """An event would be dropped, and every chunk would wait for its answer."""
    init, is_settled = page.evaluate(
        """async () => {
            const sent = [];
            let socket;
            const RealSocket = window.WebSocket;
            window.WebSocket = class {
                static CONNECTING = 0;
                static OPEN = 1;
                readyState = 0;
                constructor() { socket = this; }
                send(data) { sent.push(MessagePack.decode(data)); }
            };
            const { Session } = await import("/static/session/session.js");
            const player = { open() {}, setPace() {}, addBatch() {} };
            let isSettled = null;
            const session = new Session("ws://a", { type: "init", output_compression: 50 }, {
                player, world: { fps: 16, chunk_frames: 12 }, onOpened() {},
                onChunk: (chunk) => (isSettled = chunk.isSettled),
            });
            session.changeOutput({ realtime_output_format: "webp", output_compression: 60 });
            socket.readyState = 1;
            socket.onopen();
            const stats = {
                num_frames: 12, pace_wait_ms: 0, scheduler_forward_ms: 1, raw_payload_build_ms: 0,
            };
            for (const message of [
                { type: "session", fps: 16, chunk_frames: 12 },
                { type: "frame_batch", chunk_index: 0, payload: new Uint8Array(9) },
                { type: "chunk_stats", chunk_index: 0, chunk_total_ms: 750, ...stats },
            ]) socket.onmessage({ data: MessagePack.encode(message) });
            window.WebSocket = RealSocket;
            return [sent[0], isSettled];
        }"""
    )
    assert init == {"type": "init", "realtime_output_format": "webp", "output_compression": 60}
    assert is_settled
