"""The jitter buffer, with time as an argument."""

from typing import Any

import pytest
from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]


def play(page: Page, script: str) -> Any:
    """Run a script on a jitter buffer of 16 frames/s and 12 frames a chunk, with manual time.

    The script sees `buffer`, `dropped` (frames), `chunk(now, ...)` and `show(from, until)`.
    """
    return page.evaluate(
        """async (script) => {
            const { JitterBuffer } = await import("/static/player/jitter_buffer.js");
            const dropped = [];
            const onDrop = (frame) => dropped.push(frame);
            const buffer = new JitterBuffer({ fps: 16, chunkFrames: 12, onDrop });
            let nextChunk = 0;
            const chunk = (now, num = 12, options = {}) => {
                const { startsChunk = true, endsChunk = true, ...more } = options;
                if (startsChunk) nextChunk += 1;
                const frames = Array.from({ length: num }, () => ({ chunkIndex: nextChunk - 1 }));
                buffer.push(now, frames, { startsChunk, endsChunk, ...more });
            };
            const show = (from, until) => {
                const shown = [];
                for (let now = from; now < until; now++) {
                    const frame = buffer.take(now);
                    if (frame !== null) shown.push({ now, ...frame });
                }
                return shown;
            };
            return new Function("buffer", "dropped", "chunk", "show", script)(
                buffer, dropped, chunk, show,
            );
        }""",
        script,
    )


def test_playout_keeps_the_beat_and_counts_drops(page: Page) -> None:
    played = play(
        page,
        """
        chunk(0);
        const steady = show(0, 500).length;
        chunk(500);
        chunk(500);
        chunk(500);
        return {
            steady, onDrop: dropped.length, numDropped: buffer.numDropped, left: buffer.length,
            late: buffer.numLate, shown: show(500, 2000).length,
        };
        """,
    )
    assert played["steady"] == 8
    assert played["onDrop"] == played["numDropped"] == 4 + 3 * 12 - 12  # one whole chunk stays
    assert played["left"] == played["shown"] == 12
    assert played["late"] == 0


@pytest.mark.parametrize("first_gap", [60, 400, 690])  # ms, from the first chunk to the second
def test_playout_steers_the_level_to_its_target(page: Page, first_gap: int) -> None:
    """Chunks of 750 ms arrive on time. From any first level, the level settles at 180 ms."""
    played = play(
        page,
        f"""
        const left = [], gaps = [];
        chunk(0);
        let shown = show(0, {first_gap});
        for (let arrival = {first_gap}; arrival < 20000; arrival += 750) {{
            chunk(arrival);
            left.push(buffer.bufferedMs);
            shown = shown.concat(show(arrival, arrival + 750));
        }}
        const times = shown.map((frame) => frame.now);
        times.slice(1).forEach((time, index) => gaps.push(time - times[index]));
        return {{ left, gaps, late: buffer.numLate, target: buffer.targetMs }};
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
            targets.push(Math.round(buffer.targetMs));
            arrival += 750 + late;
        }
        return targets;
        """,
    )
    assert played[:3] == [180, 180, 180]
    assert played[3] == 250
    assert 180 < played[5] < 250, "it decays slowly"
    assert played[6] == 360, "capped at the maximum"
    assert played[-1] < 360, "it decays"


def test_playout_buffers_again_after_an_underrun(page: Page) -> None:
    """Frames arrive one by one, as in H.264. The late second chunk raises the target to 360 ms."""
    played = play(
        page,
        """
        const one = (now, first) => chunk(now, 1, { startsChunk: first, endsChunk: false });
        one(0, true);
        const atFirst = [show(0, 100).length];
        chunk(100, 1, { startsChunk: false, endsChunk: true }); // any complete chunk is enough
        atFirst.push(show(100, 400).length);
        one(1000, true);
        for (let num = 1; num < 5; num++) one(1010, false);
        const dry = show(1010, 1100).length;
        one(1100, false);
        return { atFirst, dry, then: show(1100, 1110).length, late: buffer.numLate };
        """,
    )
    assert played["atFirst"] == [0, 2]
    assert played["dry"] == 0
    assert played["then"] == 1
    assert played["late"] == 14, "from 225 ms, where the third frame was due, to 1100 ms"


def test_a_flush_drops_older_chunks_and_shows_the_new_one(page: Page) -> None:
    played = play(
        page,
        """
        chunk(0);
        show(0, 300);
        chunk(300);
        chunk(310, 1, { endsChunk: false, flushesOlder: true });
        const left = buffer.length;
        chunk(315, 11, { startsChunk: false, flushesOlder: true });
        const shown = show(315, 400).map((frame) => frame.chunkIndex);
        const { numFlushed, numDropped } = buffer;
        return { left, shown, numFlushed, numDropped, onDrop: dropped.length };
        """,
    )
    assert played == {
        "left": 1,
        "shown": [2, 2],
        "numFlushed": 7 + 12,
        "numDropped": 0,
        "onDrop": 7 + 12,
    }


def test_a_pause_counts_for_no_late_frame_and_raises_no_target(page: Page) -> None:
    played = play(
        page,
        """
        chunk(0);
        show(0, 750);
        chunk(750);
        show(750, 1600);
        const before = { late: buffer.numLate, target: buffer.targetMs };
        buffer.restart();
        chunk(60_000);
        const shown = show(60_000, 60_750).length;
        const after = { late: buffer.numLate, target: buffer.targetMs };
        chunk(60_750 + 300);
        return { before, after, shown, raised: buffer.targetMs };
        """,
    )
    assert played["after"] == played["before"]
    assert played["shown"] == 12
    assert played["raised"] > played["before"]["target"], "a late chunk after that counts"
