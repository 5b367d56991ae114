"""The page's modules one by one, in a real Chromium."""

import pytest
from playwright.sync_api import Page

pytestmark = pytest.mark.browser


def test_a_batch_with_a_bad_picture_keeps_none(page: Page) -> None:
    num_closed = page.evaluate(
        """async () => {
            const { decodeBatch } = await import("/static/picture.js");
            const canvas = document.createElement("canvas");
            const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg"));
            const good = new Uint8Array(await blob.arrayBuffer());
            const bad = new Uint8Array(10);
            const pictures = [good, bad, good];
            let numClosed = 0;
            const close = ImageBitmap.prototype.close;
            ImageBitmap.prototype.close = function () {
                numClosed += 1;
                close.call(this);
            };
            try {
                await decodeBatch({
                    content_type: "image/jpeg",
                    payload: new Uint8Array(pictures.flatMap((data) => [...data])),
                    payload_lengths: pictures.map((data) => data.length),
                });
            } catch {
                return numClosed;
            }
            return null;
        }"""
    )
    assert num_closed == 2


def test_control_time_forgets_what_will_not_be_shown(page: Page) -> None:
    """Controls 1 and 2 were superseded or dropped: when 3 is shown, they are not under way."""
    times = page.evaluate(
        """async () => {
            const { ControlTime } = await import("/static/meter.js");
            const time = new ControlTime();
            [1, 2, 3, 4].forEach((id) => time.send(id, 100 * id));
            const times = [];
            for (const ids of [[], [3], [1, 2], [4]]) {
                time.show(ids, 1000);
                times.push(time.last);
            }
            return times;
        }"""
    )
    assert times == [None, 700, 700, 600]


def test_playout_hastens_a_long_queue_and_counts_what_it_drops(page: Page) -> None:
    """The clock alone, fed by hand: 16 frames a second, 12 frames a chunk."""
    played = page.evaluate(
        """async () => {
            const { Playback } = await import("/static/playback.js");
            const lost = [];
            const playback = new Playback({ fps: 16, chunkFrames: 12, onDrop: f => lost.push(f) });
            const play = (from, until) => {
                const shown = [];
                for (let now = from; now < until; now++) {
                    const frame = playback.take(now);
                    if (frame !== null) shown.push(frame);
                }
                return shown.length;
            };
            const fill = num => playback.push(Array.from({ length: num }, (_, index) => index));
            fill(12);
            const steady = play(0, 500);
            fill(24);
            const hasty = play(500, 1000);
            fill(30);
            return {
                steady, hasty, lost: lost.length, counted: playback.numDropped,
                left: playback.length, late: playback.numLate,
                dry: play(1000, 3000),
            };
        }"""
    )
    assert played["steady"] == 8
    assert played["hasty"] == 9
    assert played["lost"] == played["counted"] == 12 - 8 + 24 - 9 + 30 - 12
    assert played["left"] == played["dry"] == 12
    assert played["late"] == 0
