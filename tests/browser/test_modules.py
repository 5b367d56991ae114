"""The page's modules one by one, in a real Chromium."""

import base64
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page

from tests.browser.stage import batches, chunk

pytestmark = pytest.mark.browser


def test_a_batch_with_a_bad_picture_keeps_none(page: Page) -> None:
    num_closed = page.evaluate(
        """async () => {
            const { decodeStills } = await import("/static/player/picture.js");
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
                await decodeStills({
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
            const { ControlTime } = await import("/static/session/stats.js");
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


def play(page: Page, script: str) -> Any:
    """Runs a script on the clock alone: 16 frames a second, 12 frames a chunk, time by hand."""
    return page.evaluate(
        """async (script) => {
            const { Playback } = await import("/static/player/jitter_buffer.js");
            const lost = [];
            const playback = new Playback({ fps: 16, chunkFrames: 12, onDrop: f => lost.push(f) });
            let nextChunk = 0;
            const chunk = (now, num = 12, options = {}) => {
                const { opensChunk = true, endsChunk = true, ...more } = options;
                if (opensChunk) nextChunk += 1;
                const frames = Array.from({ length: num }, () => ({ chunkIndex: nextChunk - 1 }));
                playback.push(now, frames, { opensChunk, endsChunk, ...more });
            };
            const show = (from, until) => {
                const shown = [];
                for (let now = from; now < until; now++) {
                    const frame = playback.take(now);
                    if (frame !== null) shown.push({ now, ...frame });
                }
                return shown;
            };
            return new Function("playback", "lost", "chunk", "show", script)(
                playback, lost, chunk, show,
            );
        }""",
        script,
    )


def test_playout_keeps_the_beat_and_counts_what_it_drops(page: Page) -> None:
    played = play(
        page,
        """
        chunk(0);
        const steady = show(0, 500).length;
        chunk(500);
        chunk(500);
        chunk(500);
        return {
            steady, lost: lost.length, dropped: playback.numDropped, left: playback.length,
            late: playback.numLate, shown: show(500, 2000).length,
        };
        """,
    )
    assert played["steady"] == 8
    assert played["lost"] == played["dropped"] == 4 + 3 * 12 - 12  # a whole chunk is left
    assert played["left"] == played["shown"] == 12
    assert played["late"] == 0


@pytest.mark.parametrize("first_gap", [60, 400, 690])  # ms, from the first chunk to the second
def test_playout_steers_what_is_left_to_its_target(page: Page, first_gap: int) -> None:
    """Chunks of 750 ms, on time: whatever was left at first, 180 ms are in the end."""
    played = play(
        page,
        f"""
        const left = [], gaps = [];
        chunk(0);
        let shown = show(0, {first_gap});
        for (let arrival = {first_gap}; arrival < 20000; arrival += 750) {{
            chunk(arrival);
            left.push(playback.leftMs);
            shown = shown.concat(show(arrival, arrival + 750));
        }}
        const times = shown.map((frame) => frame.now);
        times.slice(1).forEach((time, index) => gaps.push(time - times[index]));
        return {{ left, gaps, late: playback.numLate, target: playback.targetMs }};
        """,
    )
    assert played["target"] == 180
    assert played["left"][-1] == pytest.approx(180, abs=63)  # a frame
    assert played["late"] == 0
    assert min(played["gaps"]) >= 56, "more than a tenth too fast"
    assert max(played["gaps"]) <= 68, "too slow"


def test_the_target_follows_how_late_chunks_come(page: Page) -> None:
    played = play(
        page,
        """
        const targets = [];
        let arrival = 0;
        for (const late of [0, 0, 250, -250, 0, 900, -900, ...Array(14).fill(0)]) {
            chunk(arrival);
            targets.push(Math.round(playback.targetMs));
            arrival += 750 + late;
        }
        return targets;
        """,
    )
    assert played[:3] == [180, 180, 180]
    assert played[3] == 250
    assert 180 < played[5] < 250, "it forgets slowly"
    assert played[6] == 360, "never more"
    assert played[-1] < 360, "never for ever"


def test_playout_that_ran_dry_begins_with_enough(page: Page) -> None:
    """Frame by frame, as video comes. The second chunk is so late that the margin is 360 ms."""
    played = play(
        page,
        """
        const one = (now, first) => chunk(now, 1, { opensChunk: first, endsChunk: false });
        one(0, true);
        const atFirst = [show(0, 100).length];
        chunk(100, 1, { opensChunk: false, endsChunk: true }); // a chunk, however short, is enough
        atFirst.push(show(100, 400).length);
        one(1000, true);
        for (let num = 1; num < 5; num++) one(1010, false);
        const dry = show(1010, 1100).length;
        one(1100, false);
        return { atFirst, dry, then: show(1100, 1110).length, late: playback.numLate };
        """,
    )
    assert played["atFirst"] == [0, 2]
    assert played["dry"] == 0
    assert played["then"] == 1
    assert played["late"] == 14, "from 225 ms, when the third frame was due, to 1100"


def test_a_cut_drops_older_chunks_and_shows_the_new_one(page: Page) -> None:
    played = play(
        page,
        """
        chunk(0);
        show(0, 300);
        chunk(300);
        chunk(310, 1, { endsChunk: false, cutsOver: true });
        const left = playback.length;
        chunk(315, 11, { opensChunk: false, cutsOver: true });
        const shown = show(315, 400).map((frame) => frame.chunkIndex);
        const { numCut, numDropped } = playback;
        return { left, shown, numCut, numDropped, lost: lost.length };
        """,
    )
    assert played == {
        "left": 1,
        "shown": [2, 2],
        "numCut": 7 + 12,
        "numDropped": 0,
        "lost": 7 + 12,
    }


def test_a_mouse_that_rests_looks_no_more(page: Page) -> None:
    looked = page.evaluate(
        """async () => {
            const { Movement } = await import("/static/input/mouse.js");
            const movement = new Movement();
            movement.add(0, 5, 0);
            const little = movement.keys(0);
            movement.add(10, 4000, -30);
            const much = movement.keys(10);
            let rested = 10;
            while (movement.keys(rested).length > 0) rested += 1;
            return { little, much, rested };
        }"""
    )
    assert looked["little"] == []
    assert looked["much"] == ["l", "i"]
    assert 100 < looked["rested"] < 400


def test_deltas_are_undone_across_batches_and_not_across_a_gap(page: Page) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (12, 8, 16, 3), np.uint8)
    first, second = batches(chunk(frames, index=3, name="delta-zstd"))
    sent = [
        header | {"payload": base64.b64encode(payload).decode()}
        for header, payload in (first, second, first)
    ]
    decoded = page.evaluate(
        """async (sent) => {
            const { DeltaDecoder } = await import("/static/player/pixels.js");
            const decoder = new DeltaDecoder();
            const decode = (message) => {
                const payload = Uint8Array.from(atob(message.payload), (c) => c.charCodeAt(0));
                return decoder.decode({ ...message, payload }).map(({ data }) => [...data]);
            };
            const pixels = [...decode(sent[0]), ...decode(sent[1])];
            decode(sent[2]);
            decode(sent[1]);
            try {
                decode(sent[1]);
            } catch (error) {
                return { pixels, error: error.message };
            }
        }""",
        sent,
    )
    shown = np.array(decoded["pixels"], np.uint8).reshape(12, 8, 16, 4)
    assert (shown[..., :3] == frames).all() and (shown[..., 3] == 255).all()
    assert decoded["error"] == "the batch before is missing"
