"""The page in Chromium, Firefox and WebKitGTK: what a visitor does, in each of them."""

import base64
import io
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from tests.browser.engines.engine import ESCAPE, STEP_S, Engine
from tests.browser.painted_world import HEIGHT, WIDTH, paint
from tests.browser.video_file import assert_moves, assert_seeks, read_video
from transport.codecs.payload import Frames
from transport.wire.messages import Format

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.xdist_group("engines"),
    pytest.mark.timeout(900),
]


def enter(engine: Engine) -> None:
    engine.click("#enter")
    engine.wait_for("() => lingbot.stats?.framesShown > 0")


def wait_for_frames(engine: Engine, num_frames: int) -> None:
    shown = engine.evaluate("() => lingbot.stats.framesShown")
    engine.wait_for("until => lingbot.stats.framesShown >= until", shown + num_frames)


def test_a_held_key_walks_until_it_is_released(engine: Engine, server: SimpleNamespace) -> None:
    enter(engine)
    engine.hold("w")
    applied = "keys => lingbot.stats.applied.actions.every((held) => held.join() === keys)"
    engine.wait_for(applied, "w")
    num_steps = len(server.world.steps)
    wait_for_frames(engine, 24)
    assert len(server.world.steps) > num_steps
    engine.release("w")
    engine.wait_for(applied, "")


def has_h264(engine: Engine, kind: str) -> bool:
    """Whether the browser has a decoder ("VideoDecoder"), or an encoder, of H.264.

    Chromium has its own. Firefox and WebKitGTK have those of the system, if there are any.
    """
    config: dict[str, Any] = {"codec": "avc1.42c01f"}
    if kind == "VideoEncoder":
        config = {"codec": "avc1.420028", "width": WIDTH, "height": HEIGHT, "framerate": 16}
    answer: bool = engine.evaluate(
        """async (kind, config) => {
            globalThis.MediaRecorder?.isTypeSupported("video/webm"); // first: see docs/browsers.md
            return (await globalThis[kind].isConfigSupported(config)).supported;
        }""",
        kind,
        config,
    )
    assert answer or engine.name != "chromium"
    return answer


# Mean errors of a pixel's values at the default quality. Between two frames it is 7.5.
LARGEST_ERRORS = {"jpeg": 3, "webp": 4, "h264": 6}


def shown_frame(engine: Engine) -> tuple[tuple[int, int], Frames]:
    """(chunk index, frame index in it) and the pixels [H, W, 3] of the frame on the canvas."""
    frame = engine.evaluate(
        """async () => {
            const { data, ...frame } = await lingbot.lastFrame();
            let text = "";
            for (const value of data) text += String.fromCharCode(value);
            return { ...frame, data: btoa(text) };
        }"""
    )
    rgba = np.frombuffer(base64.b64decode(frame["data"]), np.uint8)
    pixels = rgba.reshape(frame["height"], frame["width"], 4)[:, :, :3]
    return (frame["chunkIndex"], frame["frameIndex"]), pixels


def saved_file(engine: Engine) -> tuple[str, bytes]:
    """The name and the bytes of the next file that the page gives to the browser."""
    engine.wait_for("() => window.saved !== undefined")
    name, data = engine.evaluate(
        """async () => {
            const { name, blob } = saved;
            delete window.saved;
            const reader = new FileReader();
            reader.readAsDataURL(await blob);
            await new Promise((resolve) => { reader.onload = resolve; });
            return [name, reader.result.split(",")[1]];
        }"""
    )
    return name, base64.b64decode(data)


def catch_files(engine: Engine) -> None:
    """Keep the files of the page in it: no protocol here reads downloads."""
    engine.evaluate(
        """() => {
            HTMLAnchorElement.prototype.click = function () {
                const blob = fetch(this.href).then((answer) => answer.blob());
                window.saved = { name: this.download, blob };
            };
        }"""
    )


@pytest.mark.parametrize("name", get_args(Format))
def test_each_codec_shows_the_frames_that_were_sent(engine: Engine, name: str) -> None:
    told = "H.264: not in this browser, JPEG"
    expected = name
    if name == "h264" and not has_h264(engine, "VideoDecoder"):
        assert engine.wait_for(
            "told => [...document.querySelector('#format')].some(({ text }) => text === told)", told
        )
        expected = "jpeg"
    engine.choose("#format", expected)
    enter(engine)
    engine.wait_for("codec => lingbot.stats.codec === codec", expected)
    (chunk_index, frame_index), pixels = shown_frame(engine)
    num_frames = 9 if chunk_index == 0 else 12
    sent = paint((num_frames, HEIGHT, WIDTH, 3), chunk_index + 1)
    errors = np.abs(sent - pixels.astype(int)).mean(axis=(1, 2, 3))
    assert np.argmin(errors) == frame_index
    assert errors[frame_index] <= LARGEST_ERRORS.get(expected, 0)


def test_the_panel_is_as_tall_as_its_content(engine: Engine) -> None:
    enter(engine)
    for width, height in ((1280, 800), (390, 844)):
        engine.resize(width, height)
        engine.evaluate("() => document.querySelector('#settings').showPopover()")
        panel = engine.evaluate(
            """() => {
                const panel = document.querySelector("#settings");
                const { left, right, height } = panel.getBoundingClientRect();
                const overflow = panel.scrollWidth - panel.clientWidth;
                return { left, right, height, overflow, windowWidth: innerWidth };
            }"""
        )
        assert panel["left"] >= 0 and panel["right"] <= panel["windowWidth"]
        assert panel["height"] < 320
        assert panel["overflow"] <= 0, "a control is wider than the panel"
        engine.evaluate("() => document.querySelector('#settings').hidePopover()")


def edge(shape: tuple[int, ...], index: int) -> Frames:
    """Frames that are black on the left and white on the right."""
    frames = np.zeros(shape, np.uint8)
    frames[:, :, shape[2] // 2 :] = 255
    return frames


def pixels_around_middle(engine: Engine) -> tuple[float, Frames]:
    """The screen's pixels for each of the world's, and a row across two of the world's columns."""
    x, y, width, height = engine.evaluate(
        """() => {
            const world = document.querySelector("#world");
            const { x, y, width, height } = world.getBoundingClientRect();
            return [x, y, width, height];
        }"""
    )
    with Image.open(io.BytesIO(engine.screenshot())) as image:
        row = np.asarray(image.convert("L"))[round(y + height / 4)]
    scale = width / WIDTH
    middle = round(x + width / 2)
    return scale, row[middle - round(scale) : middle + round(scale) + 1]


def test_the_world_is_enlarged_smoothly(
    engine: Engine, server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.world, "paint", edge)
    engine.choose("#format", "raw")
    enter(engine)
    wait_for_frames(engine, 12)
    scale, around = pixels_around_middle(engine)
    deadline_s = time.monotonic() + STEP_S
    while around[0] > 20 or around[-1] < 235:  # the screen shows the opening picture still
        assert time.monotonic() < deadline_s, around
        scale, around = pixels_around_middle(engine)
    assert scale > 4
    assert np.count_nonzero((around > 20) & (around < 235)) >= scale / 2


def test_the_format_changes_in_the_panel(engine: Engine) -> None:
    enter(engine)
    engine.click("[popovertarget=settings]")
    engine.wait_for("() => document.querySelector('#settings:popover-open') !== null")
    for name in ("delta-zstd", "jpeg"):
        engine.choose("#live-format", name)
        engine.wait_for("codec => lingbot.stats.codec === codec", name)
    engine.press(ESCAPE)  # closes the panel, not the session
    wait_for_frames(engine, 12)


def test_an_uploaded_picture_opens_a_world(
    engine: Engine, server: SimpleNamespace, tmp_path: Path
) -> None:
    path = tmp_path / "mine.png"
    Image.new("RGB", (WIDTH, HEIGHT), (200, 100, 50)).save(path)
    engine.set_file("#upload", str(path))
    engine.wait_for("() => document.querySelector('#openings').innerText.includes('Your picture')")
    enter(engine)
    image = np.asarray(server.world.images[-1])
    assert np.abs(image.reshape(-1, 3).mean(axis=0) - (200, 100, 50)).max() < 3


def test_a_recording_plays_and_seeks_in_the_same_browser(engine: Engine) -> None:
    catch_files(engine)
    engine.choose("#format", "jpeg")  # "Automatic" may choose a smaller size on a busy machine
    enter(engine)
    engine.press("r")
    wait_for_frames(engine, 56)
    engine.press("r")
    name, data = saved_file(engine)
    assert name.endswith(".mp4" if has_h264(engine, "VideoEncoder") else ".webm")
    frames, duration_s = read_video(data)
    assert {frame.shape for frame in frames} == {(HEIGHT, WIDTH, 3)}
    assert len(frames) >= 12, "of 56; a busy machine's encoder misses some"
    assert duration_s >= 1.5
    assert_seeks(data, to_s=duration_s - 0.5)
    assert_moves(frames)
    played = engine.evaluate(PLAY, base64.b64encode(data).decode())
    assert played["duration"] == pytest.approx(duration_s, abs=0.2)
    assert played["time"] == pytest.approx(duration_s - 0.5, abs=0.3)
    assert played["width"] == WIDTH


PLAY = """async (data) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const video = document.createElement("video");
    const happened = (name) => new Promise((resolve, reject) => {
        video.addEventListener(name, resolve, { once: true });
        video.addEventListener("error", () => reject(new Error(video.error.message)));
    });
    video.muted = true;
    const loaded = happened("loadeddata");
    video.src = URL.createObjectURL(new Blob([bytes]));
    await loaded;
    const seeked = happened("seeked");
    video.currentTime = video.duration - 0.5;
    await seeked;
    return { duration: video.duration, time: video.currentTime, width: video.videoWidth };
}"""


def test_p_saves_a_picture(engine: Engine) -> None:
    catch_files(engine)
    engine.choose("#format", "jpeg")
    enter(engine)
    engine.press("p")
    name, data = saved_file(engine)
    assert name.endswith(".png")
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (WIDTH, HEIGHT)
        assert np.asarray(image.convert("RGB")).std() > 10, "a blank picture"


def test_a_visitor_leaves_and_enters_again(engine: Engine, server: SimpleNamespace) -> None:
    enter(engine)
    engine.press(ESCAPE)
    engine.wait_for("() => lingbot.state === 'start'")
    num_opened = len(server.world.specs)
    enter(engine)
    assert len(server.world.specs) == num_opened + 1
    wait_for_frames(engine, 12)


def test_a_visitor_goes_on_in_the_world_that_the_browser_kept(
    engine: Engine, server: SimpleNamespace
) -> None:
    enter(engine)
    engine.evaluate("() => lingbot.keep()")
    text = engine.evaluate("() => document.querySelector('#toast').textContent")
    assert "does not keep" not in text
    engine.press(ESCAPE)
    engine.wait_for("() => lingbot.state === 'start'")
    num_opened = len(server.world.specs)
    engine.click("#continue")
    engine.wait_for("() => lingbot.stats?.framesShown > 0 && lingbot.state === 'playing'")
    assert len(server.world.specs) == num_opened + 1
    assert engine.evaluate("() => lingbot.stats.worldChunkIndex") > 0
