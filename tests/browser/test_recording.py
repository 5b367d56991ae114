"""Recording what is shown to a file."""

import re
from pathlib import Path

import av
import numpy as np
import pytest
from playwright.sync_api import Download, Page

from tests.browser.stage import enter, wait_for_actions
from transport.codecs.payload import Frames

pytestmark = pytest.mark.browser


def read(download: Download, folder: Path) -> list[Frames]:
    path = folder / download.suggested_filename
    download.save_as(path)
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def walk_on(page: Page, num_frames: int) -> None:
    shown = page.evaluate("lingbot.stats.framesShown")
    page.wait_for_function("until => lingbot.stats.framesShown >= until", arg=shown + num_frames)


def test_a_recording_is_a_file_that_plays(page: Page, tmp_path: Path) -> None:
    enter(page)
    page.keyboard.down("w")
    wait_for_actions(page, ["w"])
    page.keyboard.press("r")
    page.wait_for_selector("#record[aria-pressed=true]:has-text('0:01')")
    walk_on(page, 24)
    with page.expect_download() as coming:
        page.click("#record")
    page.wait_for_selector("#record[aria-pressed=false]:has-text('Record')")
    assert re.fullmatch(r"lingbot-[\d-]+T[\d-]+\.webm", coming.value.suggested_filename)
    frames = read(coming.value, tmp_path)
    assert len(frames) >= 24
    assert {frame.shape for frame in frames} == {(128, 208, 3)}
    assert all(frame.std() > 10 for frame in frames), "a frame without a picture"
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 1, "it stood still"


def test_a_recording_survives_a_new_width_and_ends_with_the_walk(
    page: Page, tmp_path: Path
) -> None:
    enter(page)
    page.click("#record")
    walk_on(page, 6)
    page.click("[popovertarget=settings]")
    page.select_option("#live-width", "104")
    page.wait_for_function("async () => (await lingbot.lastFrame()).width === 104")
    walk_on(page, 6)
    page.keyboard.press("Escape")
    with page.expect_download() as coming:
        page.keyboard.press("Escape")
    assert page.evaluate("lingbot.state") == "start"
    frames = read(coming.value, tmp_path)
    assert {frame.shape[:2] for frame in frames} >= {(128, 208)}
    assert all(frame.std() > 10 for frame in frames)


def test_an_r_in_the_prompt_records_nothing(page: Page) -> None:
    enter(page)
    page.fill("#live-prompt", "")
    page.keyboard.type("rain")
    assert page.get_attribute("#record", "aria-pressed") == "false"
