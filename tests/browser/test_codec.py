"""Frames on the canvas, compared with the frames that the server sent, in each codec."""

import time
from typing import get_args

import numpy as np
import pytest
from msgspec import msgpack
from playwright.sync_api import Page, Route

from benchmarks.page import enter, wait_until_playing
from tests.browser.driver import (
    choose_format,
    is_quiet,
    payloads_of,
    shown_frame,
    wait_for_actions,
    wait_for_async,
    wait_for_text,
)
from tests.browser.fake_server import Relay, answer_init, chunk, decode, grey
from transport.codecs.payload import Frames
from transport.wire.messages import Format

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]

LOSSLESS = ("raw", "delta-zstd")
MIN_PSNR_DB = 35.0  # the error of rounding and of chroma upsampling
NUM_COMPARED = 4


def bars(num_frames: int, *, width: int, height: int) -> Frames:
    """The eight corners of the colour cube above a gradient, moving right: [T, H, W, 3]."""
    colours = np.array([[r, g, b] for r in (16, 235) for g in (16, 235) for b in (16, 235)])
    row = np.repeat(colours, width // len(colours), axis=0)
    ramp = np.linspace(0, 255, width).astype(np.uint8)[:, None].repeat(3, axis=1)
    frame = np.concatenate([np.tile(row, (height // 2, 1, 1)), np.tile(ramp, (height // 2, 1, 1))])
    return np.stack([np.roll(frame, 8 * step, axis=1) for step in range(num_frames)]).astype(
        np.uint8
    )


def compare_frames(page: Page, relay: Relay, name: str) -> None:
    """Compare shown frames with the sent ones, from the first chunk in format `name` on."""
    num_left = NUM_COMPARED
    while num_left > 0:
        (chunk_index, index), pixels = shown_frame(page)
        if relay.codecs[chunk_index] == name:
            quality_db = psnr_db(pixels, relay.frames[chunk_index, index])
            assert quality_db >= min_psnr_db(name), (chunk_index, index)
            num_left -= 1
        page.wait_for_function("num => lingbot.stats.framesShown > num + 2", arg=num_shown(page))


def psnr_db(one: Frames, other: Frames) -> float:
    """PSNR of two frames in dB; infinite if they are equal."""
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def min_psnr_db(name: str) -> float:
    return float("inf") if name in LOSSLESS else MIN_PSNR_DB


def num_shown(page: Page) -> int:
    num: int = page.evaluate("lingbot.stats.framesShown")
    return num


@pytest.mark.parametrize("name", get_args(Format))
def test_a_session_shows_the_frames_that_were_sent(page: Page, name: str) -> None:
    relay = Relay(page)
    choose_format(page, name)
    enter(page)
    page.keyboard.down("w")
    wait_for_actions(page, ["w"])
    compare_frames(page, relay, name)
    assert set(relay.codecs) == {name}
    assert page.evaluate("lingbot.stats.codec") == name
    assert is_quiet(page)


@pytest.mark.parametrize("name", get_args(Format))
def test_a_large_frame_keeps_its_colours(page: Page, name: Format) -> None:
    frames = bars(7, width=832, height=480)  # more than one message in every codec
    sent = chunk(frames, index=0, name=name)
    received = answer_init(page, *sent)
    enter(page)
    page.wait_for_function("lingbot.stats.framesShown === 7")
    index, pixels = shown_frame(page)
    assert index == (0, 6)
    assert psnr_db(pixels, decode(sent)[6]) >= min_psnr_db(name)
    # The middles of the bars: chroma subsampling blurs their edges.
    middles = (slice(30, 480, 60), slice(48 + 52, 48 + 7 * 104, 104))
    wrong = np.abs(pixels[middles].astype(int) - frames[6][middles]).max()
    assert wrong <= (0 if name in LOSSLESS else 3)
    assert [message["chunk_index"] for message in received if message["type"] == "ack"] == [0]


def test_a_change_of_codec_loses_no_frames(page: Page) -> None:
    relay = Relay(page)
    enter(page)
    page.keyboard.down("w")  # a world without keys pauses, and a busy machine takes that long
    page.click("[popovertarget=settings]")
    for name in ("h264", "delta-zstd", "webp", "h264", "raw", "jpeg"):
        page.select_option("#live-format", name)
        page.wait_for_function("name => lingbot.stats.codec === name", arg=name)
        compare_frames(page, relay, name)
    page.keyboard.press("Escape")  # closes the settings, not the session
    wait_for_actions(page, ["w"])
    stats = page.evaluate("lingbot.stats")
    assert stats["framesReceived"] >= len(relay.frames) - 2 * 12
    # A browser that a busy machine stalls overflows the buffer: then as many frame times were late.
    assert stats["framesDropped"] <= stats["framesLate"] + 1
    assert is_quiet(page)


@pytest.mark.parametrize("name", ["jpeg", "h264"])
def test_quality_and_width_change_during_a_session(page: Page, name: str) -> None:
    relay = Relay(page)
    choose_format(page, name)
    enter(page)
    page.click("[popovertarget=settings]")
    page.fill("#live-quality", "10")
    page.select_option("#live-width", "104")
    wait_for_async(page, "async () => (await lingbot.lastFrame()).width === 104")
    compare_frames(page, relay, name)
    page.select_option("#live-width", "0")
    wait_for_async(page, "async () => (await lingbot.lastFrame()).width === 208")
    compare_frames(page, relay, name)
    box = page.locator("#world").bounding_box()
    assert box is not None
    assert box["width"] / box["height"] == pytest.approx(208 / 128, rel=0.01)
    assert is_quiet(page)


def test_a_browser_without_h264_offers_jpeg_instead(page: Page) -> None:
    page.add_init_script("delete window.VideoDecoder")
    page.reload()
    page.click("summary")
    page.select_option("#format", label="H.264: not in this browser, JPEG")
    page.wait_for_selector("#enter:enabled")
    enter(page)
    assert page.evaluate("lingbot.stats.codec") == "jpeg"


def test_a_corrupt_h264_frame_requests_one_key_frame(page: Page) -> None:
    first = chunk(grey(9, 90), index=0, name="h264")
    corrupt = msgpack.decode(first[4])
    corrupt["payload"] = b"\0\0\1\x41" + b"\xff" * 40
    first[4] = msgpack.encode(corrupt)
    second = chunk(grey(12, 200), index=1, name="h264")  # starts with a key frame
    received = answer_init(page, *first, *second)
    page.click("#enter")
    page.wait_for_function("lingbot.stats?.framesShown === 4 + 12")
    wait_for_text(page, "toast", "comes back in a moment")
    index, pixels = shown_frame(page)
    assert index == (1, 11)
    assert np.abs(pixels.astype(int) - 200).max() <= 3
    assert len(payloads_of(received, "key_frame")) == 1, "one request is enough"
    acks = [message["chunk_index"] for message in received if message["type"] == "ack"]
    assert acks == [0, 1], "a corrupt chunk is acknowledged too"


def test_h264_that_cannot_be_decoded_switches_to_jpeg(page: Page) -> None:
    batch = msgpack.decode(chunk(grey(1, 90), index=0, name="h264")[0])
    received = answer_init(page, msgpack.encode(batch | {"codec": "avc1.ffffff"}))
    page.click("#enter")
    page.wait_for_function("lingbot.stats?.chunkIndex === 0")
    full = {
        "realtime_output_format": "jpeg",
        "output_compression": 90,
        "realtime_preview_max_width": 0,
    }
    assert payloads_of(received, "output") == [full], "the ladder starts with all of it"
    wait_for_text(page, "toast", "JPEG follows")


def test_a_warning_is_shown_and_the_session_goes_on(page: Page) -> None:
    warning = {"type": "warning", "code": "codec_failed", "content": "H.264 failed, JPEG follows"}
    received = answer_init(
        page,
        *chunk(grey(9, 90), index=0, name="h264"),
        warning,
        *chunk(grey(12, 90), index=1, name="jpeg"),
    )
    choose_format(page, "h264")
    page.click("#enter")
    wait_until_playing(page)
    wait_for_text(page, "toast", "H.264 failed, JPEG follows")
    page.wait_for_function("lingbot.stats.framesShown === 9 + 12")
    assert page.input_value("#live-format") == "jpeg"
    assert received[0]["realtime_cut_over"] is True
    [output] = payloads_of(received, "output")
    assert output["realtime_output_format"] == "jpeg", "the next session has it, too"


def test_a_chunk_that_flushes_older_frames_is_shown_at_once(page: Page) -> None:
    # At 2 frames/s, a busy machine has 10 s to decode the H.264 before chunk 1 has been shown.
    slow = {"type": "session", "fps": 2, "chunk_frames": 12}
    answer_init(
        page,
        slow,
        *chunk(grey(9, 50), index=0),
        *chunk(grey(12, 100), index=1),
        *chunk(grey(12, 200), index=2, name="h264", flushes_older=True),
        *chunk(grey(12, 250), index=3),
    )
    page.click("#enter")
    page.wait_for_function("lingbot.stats?.chunkIndex === 3 && lingbot.stats.framesQueued === 0")
    stats = page.evaluate("lingbot.stats")
    assert stats["framesCut"] > 0, "the chunk before it was shown"
    assert stats["framesShown"] + stats["framesCut"] == stats["framesReceived"] == 9 + 3 * 12
    assert stats["framesDropped"] == 0
    index, pixels = shown_frame(page)
    assert index == (3, 11) and (pixels == 250).all()


def test_a_busy_page_does_not_delay_frames(page: Page) -> None:
    """The worker decodes, paints and makes previews while the page's own thread is blocked."""

    def answer_late(route: Route) -> None:
        time.sleep(6.0)
        route.fulfill(body="")

    page.route("**/late", answer_late)
    # At 8 frames/s the tenth frame, the first of chunk 1, has a preview.
    slow = {"type": "session", "fps": 8, "chunk_frames": 12, "limits": {}}
    answer_init(page, slow, *(data for at in range(3) for data in chunk(grey(9, 90), index=at)))
    page.click("#enter")
    # A synchronous request blocks the thread and leaves the processor to the worker.
    stats = page.evaluate(
        """async () => {
            const wait = () => new Promise((go) => setTimeout(go, 1));
            while (!(lingbot.stats?.framesShown >= 9 && lingbot.stats.chunkIndex === 2)) {
                await wait();
            }
            const before = lingbot.stats;
            const request = new XMLHttpRequest();
            request.open("GET", "late", false);
            request.send();
            const atOnce = lingbot.stats;
            await lingbot.lastFrame(); // answered after all earlier reports
            return { before, atOnce, after: lingbot.stats };
        }"""
    )
    shown = {when: figures["framesShown"] for when, figures in stats.items()}
    assert shown["atOnce"] == shown["before"], "the page was not busy"
    # Sixteen on an idle machine. A worker that waits for the page shows the tenth frame at most.
    assert shown["after"] >= shown["before"] + 2
