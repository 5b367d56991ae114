"""Recording the canvas to a file."""

import re
from pathlib import Path

import av
import numpy as np
import pytest
from playwright.sync_api import Download, Page

from benchmarks.page import enter
from tests.browser.driver import wait_for_actions
from transport.codecs.payload import Frames

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


def read(download: Download, folder: Path) -> list[Frames]:
    """The frames of a downloaded video, [H, W, 3] each."""
    path = folder / download.suggested_filename
    download.save_as(path)
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def wait_for_frames(page: Page, num_frames: int) -> None:
    shown = page.evaluate("lingbot.stats.framesShown")
    page.wait_for_function("until => lingbot.stats.framesShown >= until", arg=shown + num_frames)


def test_a_recording_is_a_file_that_plays(page: Page, tmp_path: Path) -> None:
    enter(page)
    page.keyboard.down("w")
    wait_for_actions(page, ["w"])
    page.keyboard.press("r")
    page.wait_for_selector("#record[aria-pressed=true]:has-text('0:01')")
    wait_for_frames(page, 24)
    with page.expect_download() as download:
        page.click("#record")
    page.wait_for_selector("#record[aria-pressed=false]:has-text('Record')")
    assert re.fullmatch(r"lingbot-[\d-]+T[\d-]+\.webm", download.value.suggested_filename)
    frames = read(download.value, tmp_path)
    assert len(frames) >= 24
    assert {frame.shape for frame in frames} == {(128, 208, 3)}
    assert all(frame.std() > 10 for frame in frames), "a blank frame"
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 1, "the recording does not move"


def test_a_recording_survives_a_change_of_width_and_ends_with_the_session(
    page: Page, tmp_path: Path
) -> None:
    enter(page)
    page.click("#record")
    wait_for_frames(page, 6)
    page.click("[popovertarget=settings]")
    page.select_option("#live-width", "104")
    page.wait_for_function("async () => (await lingbot.lastFrame()).width === 104")
    wait_for_frames(page, 6)
    page.keyboard.press("Escape")
    with page.expect_download() as download:
        page.keyboard.press("Escape")
    assert page.evaluate("lingbot.state") == "start"
    frames = read(download.value, tmp_path)
    assert {frame.shape[:2] for frame in frames} >= {(128, 208)}
    assert all(frame.std() > 10 for frame in frames)


def test_an_r_in_the_prompt_records_nothing(page: Page) -> None:
    enter(page)
    page.fill("#live-prompt", "")
    page.keyboard.type("rain")
    assert page.get_attribute("#record", "aria-pressed") == "false"
