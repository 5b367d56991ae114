"""Recording what is shown to a file."""

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from playwright.sync_api import Page

from benchmarks.page import enter
from tests.browser.driver import choose_format, wait_for_actions, wait_for_async, wait_for_text
from tests.browser.painted_world import serve_painted_worlds
from tests.browser.video_file import assert_moves, assert_seeks, read_video

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def server() -> Iterator[SimpleNamespace]:
    with serve_painted_worlds() as running:
        yield running


def wait_for_frames(page: Page, num_frames: int) -> None:
    shown = page.evaluate("lingbot.stats.framesShown")
    page.wait_for_function("until => lingbot.stats.framesShown >= until", arg=shown + num_frames)


def record(page: Page, num_frames: int) -> tuple[str, bytes]:
    """The name and the bytes of a recording of this many frames."""
    page.keyboard.press("r")
    page.wait_for_function(
        """() => {
            const text = document.getElementById("record-text").textContent;
            return /^\\d/.test(text) && text !== "0:00";
        }"""
    )
    wait_for_frames(page, num_frames)
    with page.expect_download() as download:
        page.click("#record")
    page.wait_for_selector("#record[aria-pressed=false]:has-text('Record')")
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_a_recording_has_a_duration_and_seeks(page: Page) -> None:
    choose_format(page, "jpeg")  # "Automatic" may choose a smaller size on a busy machine
    enter(page)
    page.keyboard.down("w")
    wait_for_actions(page, ["w"])
    name, data = record(page, 48)
    assert re.fullmatch(r"lingbot-[\d-]+T[\d-]+\.mp4", name)
    frames, duration_s = read_video(data)
    assert len(frames) >= 12, "of 48; a busy machine's encoder misses some"
    assert duration_s >= 2  # of 4 or more; its last frames may be among those
    assert_seeks(data, to_s=duration_s - 0.5)
    assert {frame.shape for frame in frames} == {(128, 208, 3)}
    assert_moves(frames)


RECORD = """async ({ codecs, times }) => {
    VideoEncoder.isConfigSupported = async ({ codec }) => ({ supported: codecs.includes(codec) });
    const { Recording } = await import("/static/player/recording.js");
    const canvas = new OffscreenCanvas(64, 48);
    const context = canvas.getContext("2d");
    const seconds = [];
    const recording = await Recording.open(canvas, {
        fps: 16, canEncode: codecs.length > 0, onSecond: (at) => seconds.push(at), onEnd() {},
    });
    for (const [index, time] of times.entries()) {
        context.fillStyle = `rgb(${index} 100 200)`;
        context.fillRect(0, 0, 64, 24 + (index % 20));
        recording.add(canvas, time);
        await new Promise((resolve) => setTimeout(resolve, 30));
    }
    const reader = new FileReader();
    reader.readAsDataURL(await recording.finish());
    await new Promise((resolve) => { reader.onload = resolve; });
    const data = reader.result.split(",")[1];
    return { seconds, extension: recording.extension, data };
}"""


@pytest.mark.parametrize(("codecs", "extension"), [(["vp8"], "webm"), ([], "mkv")])
def test_without_h264_a_recording_seeks_in_another_format(
    page: Page, codecs: list[str], extension: str
) -> None:
    times = [1000 + 62.5 * index for index in range(49)]
    recorded = page.evaluate(RECORD, {"codecs": codecs, "times": times})
    assert recorded["extension"] == extension
    data = base64.b64decode(recorded["data"])
    frames, duration_s = read_video(data)
    assert 1.5 <= duration_s <= 3.2  # a busy machine's encoder misses some of 3 s
    assert_seeks(data, to_s=duration_s - 0.5)
    assert_moves(frames)


def test_without_an_encoder_the_page_names_a_player(page: Page) -> None:
    page.evaluate("() => { delete window.VideoEncoder; }")
    choose_format(page, "jpeg")
    enter(page)
    name, data = record(page, 12)
    assert name.endswith(".mkv")
    wait_for_text(page, "announcer", "VLC plays")
    frames, _ = read_video(data)
    assert_moves(frames)


def test_a_pause_is_a_second_of_the_recording(page: Page) -> None:
    times = [0, 500, 1000, 60_000, 60_500]
    recorded = page.evaluate(RECORD, {"codecs": ["vp8"], "times": times})
    assert recorded["seconds"] == [1, 2]
    _, duration_s = read_video(base64.b64decode(recorded["data"]))
    assert duration_s == pytest.approx(2.5, abs=0.2)


def test_a_recording_survives_a_change_of_width_and_ends_with_the_session(page: Page) -> None:
    choose_format(page, "jpeg")  # "Automatic" leaves no choice of the width
    enter(page)
    page.click("#record")
    wait_for_frames(page, 6)
    page.click("[popovertarget=settings]")
    page.select_option("#live-width", "104")
    wait_for_async(page, "async () => (await lingbot.lastFrame()).width === 104")
    wait_for_frames(page, 6)
    page.keyboard.press("Escape")
    with page.expect_download() as download:
        page.keyboard.press("Escape")
    assert page.evaluate("lingbot.state") == "start"
    frames, _ = read_video(Path(download.value.path()).read_bytes())
    assert {frame.shape[:2] for frame in frames} == {(128, 208)}
    assert all(frame.std() > 10 for frame in frames)


def test_p_saves_a_picture_of_the_frame(page: Page) -> None:
    choose_format(page, "jpeg")
    enter(page)
    with page.expect_download() as download:
        page.keyboard.press("p")
    assert download.value.suggested_filename.endswith(".png")
    with Image.open(io.BytesIO(Path(download.value.path()).read_bytes())) as image:
        assert image.size == (208, 128)
    page.click("[popovertarget=portable]")
    with page.expect_download():
        page.click("#picture")


def test_letters_of_a_prompt_record_nothing(page: Page) -> None:
    enter(page)
    page.fill("#live-prompt", "")
    page.keyboard.type("rain park")
    assert page.get_attribute("#record", "aria-pressed") == "false"
