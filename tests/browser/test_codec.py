"""Frames on their way to the canvas, in each codec: against what the server sent."""

from typing import get_args

import numpy as np
import pytest
from msgspec import msgpack
from playwright.sync_api import Page

from tests.browser.stage import (
    Relay,
    answer_init,
    choose_format,
    chunk,
    decode,
    enter,
    grey,
    psnr,
    shown_frame,
    wait_for_actions,
    wait_until_playing,
)
from transport.codecs.payload import Frames
from transport.wire.messages import Format

pytestmark = pytest.mark.browser

LOSSLESS = ("raw", "delta-zstd")
LEAST_PSNR = 35.0  # dB; what is left is rounding, and how colours are scaled up
NUM_LOOKS = 4


def bars(num_frames: int, *, width: int, height: int) -> Frames:
    """The eight corners of the colour cube above a gradient, moving to the right."""
    colours = np.array([[r, g, b] for r in (16, 235) for g in (16, 235) for b in (16, 235)])
    row = np.repeat(colours, width // len(colours), axis=0)
    ramp = np.linspace(0, 255, width).astype(np.uint8)[:, None].repeat(3, axis=1)
    picture = np.concatenate(
        [np.tile(row, (height // 2, 1, 1)), np.tile(ramp, (height // 2, 1, 1))]
    )
    return np.stack([np.roll(picture, 8 * step, axis=1) for step in range(num_frames)]).astype(
        np.uint8
    )


def look(page: Page, relay: Relay, name: str) -> None:
    """Compares frames that are on the screen, from `name` on, with those that were sent."""
    num_left = NUM_LOOKS
    while num_left > 0:
        (chunk_index, index), pixels = shown_frame(page)
        if relay.codecs[chunk_index] == name:
            quality = psnr(pixels, relay.frames[chunk_index, index])
            assert quality >= least_psnr(name), (chunk_index, index)
            num_left -= 1
        page.wait_for_function("num => lingbot.stats.framesShown > num + 2", arg=num_shown(page))


def least_psnr(name: str) -> float:
    return float("inf") if name in LOSSLESS else LEAST_PSNR


def num_shown(page: Page) -> int:
    num: int = page.evaluate("lingbot.stats.framesShown")
    return num


@pytest.mark.parametrize("name", get_args(Format))
def test_a_walk_shows_the_frames_that_were_sent(page: Page, name: str) -> None:
    relay = Relay(page)
    choose_format(page, name)
    enter(page)
    page.keyboard.down("w")
    wait_for_actions(page, ["w"])
    look(page, relay, name)
    assert set(relay.codecs) == {name}
    assert page.evaluate("lingbot.stats.codec") == name
    assert not page.is_visible("#toast")


@pytest.mark.parametrize("name", get_args(Format))
def test_a_large_picture_keeps_its_colours(page: Page, name: Format) -> None:
    frames = bars(7, width=832, height=480)  # over one message, whatever the codec
    sent = chunk(frames, index=0, name=name)
    told = answer_init(page, *sent)
    enter(page)
    page.wait_for_function("lingbot.stats.framesShown === 7")
    place, pixels = shown_frame(page)
    assert place == (0, 6)
    assert psnr(pixels, decode(sent)[6]) >= least_psnr(name)
    middles = (slice(30, 480, 60), slice(48 + 52, 48 + 7 * 104, 104))  # of the bars, not the edges
    wrong = np.abs(pixels[middles].astype(int) - frames[6][middles]).max()
    assert wrong <= (0 if name in LOSSLESS else 3)
    assert [message["chunk_index"] for message in told if message["type"] == "ack"] == [0]


def test_the_codec_changes_in_mid_walk_and_no_frame_is_lost(page: Page) -> None:
    relay = Relay(page)
    enter(page)
    page.click("[popovertarget=settings]")
    for name in ("h264", "delta-zstd", "webp", "h264", "raw", "jpeg"):
        page.select_option("#live-format", name)
        page.wait_for_function("name => lingbot.stats.codec === name", arg=name)
        look(page, relay, name)
    page.keyboard.press("Escape")  # closes the settings, not the world
    page.keyboard.down("w")
    wait_for_actions(page, ["w"])
    stats = page.evaluate("lingbot.stats")
    assert stats["framesReceived"] >= len(relay.frames) - 2 * 12
    assert stats["framesDropped"] == 0
    assert not page.is_visible("#toast")


@pytest.mark.parametrize("name", ["jpeg", "h264"])
def test_quality_and_width_change_in_mid_walk(page: Page, name: str) -> None:
    relay = Relay(page)
    choose_format(page, name)
    enter(page)
    page.click("[popovertarget=settings]")
    page.fill("#live-quality", "10")
    page.select_option("#live-width", "104")
    page.wait_for_function("async () => (await lingbot.lastFrame()).width === 104")
    look(page, relay, name)
    page.select_option("#live-width", "0")
    page.wait_for_function("async () => (await lingbot.lastFrame()).width === 208")
    look(page, relay, name)
    box = page.locator("#world").bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(208 / 128, rel=0.01)
    assert not page.is_visible("#toast")


def test_a_browser_without_h264_takes_jpeg_and_says_so(page: Page) -> None:
    page.add_init_script("delete window.VideoDecoder")
    page.reload()
    page.click("summary")
    page.select_option("#format", label="H.264: not in this browser, JPEG")
    page.wait_for_selector("#enter:enabled")
    enter(page)
    assert page.evaluate("lingbot.stats.codec") == "jpeg"


def test_a_spoiled_video_asks_for_a_key_frame_and_goes_on(page: Page) -> None:
    first = chunk(grey(9, 90), index=0, name="h264")
    spoiled = msgpack.decode(first[4])
    spoiled["payload"] = b"\0\0\1\x41" + b"\xff" * 40
    first[4] = msgpack.encode(spoiled)
    second = chunk(grey(12, 200), index=1, name="h264")  # begins with a key frame
    told = answer_init(page, *first, *second)
    page.click("#enter")
    page.wait_for_function("lingbot.stats?.framesShown === 4 + 12")
    page.wait_for_selector("text=comes back in a moment")
    (place, pixels) = shown_frame(page)
    assert place == (1, 11)
    assert np.abs(pixels.astype(int) - 200).max() <= 3
    events = [message for message in told if message["type"] == "event"]
    assert [event["kind"] for event in events] == ["key_frame"], "one is enough"
    acks = [message["chunk_index"] for message in told if message["type"] == "ack"]
    assert acks == [0, 1], "a spoiled chunk has arrived, too"


def test_a_video_that_cannot_be_decoded_becomes_jpeg(page: Page) -> None:
    batch = msgpack.decode(chunk(grey(1, 90), index=0, name="h264")[0])
    told = answer_init(page, msgpack.encode(batch | {"codec": "avc1.ffffff"}))
    page.click("#enter")
    page.wait_for_function("lingbot.stats?.chunkIndex === 0")
    changes = [message["payload"] for message in told if message["type"] == "event"]
    assert changes == [{"realtime_output_format": "jpeg"}]
    page.wait_for_selector("text=JPEG follows")


def test_a_warning_is_shown_and_the_walk_goes_on(page: Page) -> None:
    warning = {"type": "warning", "code": "codec_failed", "content": "H.264 failed, JPEG follows"}
    told = answer_init(
        page,
        *chunk(grey(9, 90), index=0, name="h264"),
        warning,
        *chunk(grey(12, 90), index=1, name="jpeg"),
    )
    choose_format(page, "h264")
    page.click("#enter")
    wait_until_playing(page)
    page.wait_for_selector("#toast:has-text('H.264 failed, JPEG follows')")
    page.wait_for_function("lingbot.stats.framesShown === 9 + 12")
    assert page.input_value("#live-format") == "jpeg"
    assert told[0]["realtime_cut_over"] is True


def test_a_chunk_that_cuts_over_is_shown_before_older_frames(page: Page) -> None:
    answer_init(
        page,
        *chunk(grey(9, 50), index=0),
        *chunk(grey(12, 100), index=1),
        *chunk(grey(12, 200), index=2, name="h264", cut_over=True),
        *chunk(grey(12, 250), index=3),
    )
    page.click("#enter")
    page.wait_for_function("lingbot.stats?.chunkIndex === 3 && lingbot.stats.framesQueued === 0")
    stats = page.evaluate("lingbot.stats")
    assert stats["framesCut"] >= 12, "the chunk before was shown"
    assert stats["framesShown"] + stats["framesCut"] == stats["framesReceived"] == 9 + 3 * 12
    assert stats["framesDropped"] == 0
    place, pixels = shown_frame(page)
    assert place == (3, 11) and (pixels == 250).all()


def test_a_busy_page_does_not_hold_up_the_picture(page: Page) -> None:
    """What decodes and paints is another thread: this one is kept from everything for 600 ms."""
    enter(page)
    stats = page.evaluate(
        """async () => {
            while (lingbot.stats.framesQueued < 10) await new Promise((go) => setTimeout(go, 1));
            const before = lingbot.stats;
            const until = performance.now() + 600;
            while (performance.now() < until);
            const atOnce = lingbot.stats;
            await lingbot.lastFrame(); // its answer comes after all that was reported meanwhile
            return { before, atOnce, after: lingbot.stats };
        }"""
    )
    shown = {when: figures["framesShown"] for when, figures in stats.items()}
    assert shown["atOnce"] == shown["before"], "the page was not busy"
    assert shown["after"] >= shown["before"] + 4  # of 9, where the machine is not busy as well
