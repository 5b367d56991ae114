"""The automatic choice of the encoding, on scripted lines, with time as an argument."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.fake_server import serve_page
from tests.transport.fake_world import FakeWorld

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]

JPEG_KB = 56  # a chunk of the pocket world
MBIT = 125.0  # kB/s


@pytest.fixture(scope="module")
def server() -> Iterator[SimpleNamespace]:
    with serve_page(FakeWorld(size=(112, 64))) as server:
        yield server


def run_line(page: Page, rates: list[float], *, steps: str = "VIDEO_STEPS") -> list[Any]:
    """Play one chunk for each rate in kB/s. Returns the step of each, and its ms on the line.

    A step's chunk has its share of the bytes of JPEG. Changes take effect two chunks later.
    """
    result: list[Any] = page.evaluate(
        """async ({ rates, steps, jpegKb }) => {
            const module = await import("/static/session/ladder.js");
            const all = module[steps];
            const ladder = new module.Ladder(all);
            const inUse = [ladder.step, ladder.step]; // of the chunks in flight
            const seen = [];
            let nowMs = 0;
            for (const rate of rates) {
                const step = inUse.shift();
                const transferMs = (1000 * jpegKb * step.share) / rate;
                const isSettled = step === ladder.step;
                nowMs += Math.max(750, transferMs);
                const numBytes = 1000 * jpegKb * step.share;
                ladder.add(nowMs, { transferMs, mediaMs: 750, serverMs: 200, numBytes, isSettled });
                inUse.push(ladder.step);
                seen.push({ at: all.indexOf(ladder.step), transferMs, nowMs });
            }
            return seen;
        }""",
        {"rates": rates, "steps": steps, "jpegKb": JPEG_KB},
    )
    return result


def steps_of(seen: list[Any]) -> list[int]:
    return [one["at"] for one in seen]


def test_a_fast_line_keeps_the_first_step(page: Page) -> None:
    assert set(steps_of(run_line(page, [10 * MBIT] * 200))) == {0}
    assert set(steps_of(run_line(page, [2 * MBIT] * 200))) == {0}, "0.3 of the line's capacity"


def test_pictures_need_twice_as_much_of_a_line(page: Page) -> None:
    """The first six frames come in one message, which is half of a chunk's bytes."""
    assert set(steps_of(run_line(page, [1.5 * MBIT] * 200))[1:]) == {1}, "0.4 of its capacity"
    assert set(steps_of(run_line(page, [0.3 * MBIT] * 50, steps="PICTURE_STEPS"))) == {2}


def test_a_slow_line_goes_down_at_once_and_stays_there(page: Page) -> None:
    seen = run_line(page, [0.3 * MBIT] * 400)
    steps = steps_of(seen)
    assert set(steps) == {2}, "H.264 of quality 75: with 90 the load would be 0.7"


def test_a_very_slow_line_skips_steps_after_one_chunk(page: Page) -> None:
    seen = run_line(page, [0.05 * MBIT] * 60)
    steps = steps_of(seen)
    assert steps[0] >= 2
    assert max(one["transferMs"] for one in seen[4:]) < 750
    assert len(set(steps[4:])) == 1, "it flapped"


def test_the_lowest_step_is_the_last(page: Page) -> None:
    for name, lowest in (("VIDEO_STEPS", 5), ("PICTURE_STEPS", 4)):
        steps = steps_of(run_line(page, [0.001 * MBIT] * 20, steps=name))
        assert steps[-1] == lowest


def test_a_line_that_recovers_goes_up_step_by_step(page: Page) -> None:
    seen = run_line(page, [0.05 * MBIT] * 10 + [10 * MBIT] * 60)
    steps = steps_of(seen)
    lowest = max(steps)
    assert steps[-1] == 0
    assert all(later - one >= -1 for one, later in zip(steps[10:], steps[11:], strict=False))
    first_up = next(at for at in range(10, 70) if steps[at] < lowest)
    assert seen[first_up]["nowMs"] - seen[9]["nowMs"] >= 8000, "too early"


def test_a_short_dip_changes_nothing(page: Page) -> None:
    """One chunk that takes 0.9 s is no reason, and two are."""
    rates = [10 * MBIT] * 20 + [JPEG_KB / 0.9] + [10 * MBIT] * 20
    assert set(steps_of(run_line(page, rates))) == {0}
    rates[21] = rates[20]
    assert max(steps_of(run_line(page, rates))) > 0


def test_a_line_that_comes_and_goes_is_tried_ever_less_often(page: Page) -> None:
    """It looks fast for 12 s at a time, so that each step up is a mistake."""
    steps = steps_of(run_line(page, ([10 * MBIT] * 16 + [0.3 * MBIT] * 8) * 20))
    ups = [at for at in range(1, len(steps)) if steps[at] < steps[at - 1]]
    assert len(ups) <= 6, f"it went up at the chunks {ups}"


def test_a_slow_server_is_no_reason_to_go_down(page: Page) -> None:
    """Chunks of 2 s need no more of the line than a chunk in 2 s."""
    step = page.evaluate(
        """async () => {
            const { Ladder, VIDEO_STEPS } = await import("/static/session/ladder.js");
            const ladder = new Ladder(VIDEO_STEPS);
            const chunk = { mediaMs: 750, serverMs: 2000, numBytes: 28000, isSettled: true };
            for (let at = 0; at < 50; at++) ladder.add(2000 * at, { ...chunk, transferMs: 600 });
            return ladder.step.format;
        }"""
    )
    assert step == "jpeg"


# ---- what is measured of a chunk


def measure(page: Page, script: str) -> Any:
    """Run a script that sees `meter`, `stats` (of a chunk of 12 frames) and a fps of 16."""
    return page.evaluate(
        """async (script) => {
            const { LineMeter } = await import("/static/session/line.js");
            const stats = {
                num_frames: 12, chunk_total_ms: 750, scheduler_forward_ms: 200,
                pace_wait_ms: 0, raw_payload_build_ms: 0,
            };
            return new Function("meter", "stats", script)(new LineMeter(), stats);
        }""",
        script,
    )


def test_the_time_on_the_line_is_that_of_all_bytes(page: Page) -> None:
    """The first message's bytes came before its arrival, the only moment that is known of it."""
    transfer_ms = measure(
        page,
        """
        const chunkIndex = 0;
        meter.addBatch(1000, { chunkIndex, numBytes: 1000, beganMs: null });
        meter.addBatch(1100, { chunkIndex, numBytes: 1000, beganMs: null });
        const two = meter.finish(stats, 16).transferMs;
        meter.addBatch(3000, { chunkIndex, numBytes: 100_000, beganMs: 2400 });
        const split = meter.finish(stats, 16).transferMs;
        meter.addBatch(4000, { chunkIndex, numBytes: 1000, beganMs: null });
        return [two, split, meter.finish(stats, 16).transferMs];
        """,
    )
    assert transfer_ms == [200, 600, None]


@pytest.mark.parametrize(
    ("num_batches", "gap_ms", "build_ms", "transfer_ms"),
    [
        (11, 100, 1100, 0),  # each frame is sent as it is encoded
        (11, 70, 330, 770),  # the line carries a frame while the next ones are encoded
        (2, 300, 300, 600),  # both messages were encoded before the first one left
        (2, 100, 300, 0),  # the second message may have left later
    ],
)
def test_the_time_of_encoding_is_none_of_the_line(
    page: Page, num_batches: int, gap_ms: int, build_ms: int, transfer_ms: int
) -> None:
    chunk = measure(
        page,
        f"""
        for (let at = 0; at < {num_batches}; at++)
            meter.addBatch({gap_ms} * at, {{ chunkIndex: 0, numBytes: 100, beganMs: null }});
        return meter.finish({{ ...stats, raw_payload_build_ms: {build_ms} }}, 16);
        """,
    )
    assert chunk["transferMs"] == pytest.approx(transfer_ms)
    assert chunk["serverMs"] == max(200, build_ms)


def test_chunks_of_the_old_encoding_do_not_count(page: Page) -> None:
    """A chunk has the new one if it begins after the answer to the change."""
    settled = measure(
        page,
        """
        const settled = [];
        const chunk = () => {
            meter.addBatch(0, { chunkIndex: 0, numBytes: 100, beganMs: null });
            settled.push(meter.finish(stats, 16).isSettled);
        };
        chunk();
        meter.await(7);
        chunk();
        meter.accept(6);
        chunk();
        meter.accept(7);
        chunk();
        return settled;
        """,
    )
    assert settled == [True, False, False, True]


def test_the_rate_of_the_line_is_the_third_best_of_the_last_chunks(page: Page) -> None:
    """Each second message has 6 kB; some come late, because the encoder was late.

    Two come at once with the first: the page's thread stood still meanwhile.
    """
    rates = measure(
        page,
        """
        const rates = [meter.rate];
        const chunk = (chunkIndex, numBytes, ms) => {
            meter.addBatch(0, { chunkIndex, numBytes, beganMs: null });
            meter.addBatch(ms, { chunkIndex, numBytes, beganMs: null });
            meter.finish(stats, 16);
            rates.push(meter.rate);
        };
        chunk(0, 100, 1);
        for (const ms of [600, 0, 60, 0, 600]) chunk(rates.length, 6000, ms);
        for (let at = 0; at < 12; at++) chunk(rates.length, 6000, 600);
        return [...rates.slice(0, 7), rates.at(-1)];
        """,
    )
    assert rates == [None, None, 10, 10, 10, 100, 100, 10]


# ---- who is the cause


@pytest.mark.parametrize(
    ("chunk", "share", "level", "cause"),
    [
        ({}, 1, "good", None),
        ({"periodMs": 600}, 1, "good", None),  # a new key made it come early
        ({"periodMs": 1000, "serverMs": 980}, 0.75, "fair", "server"),
        ({"periodMs": 1500, "transferMs": 1450}, 0.5, "poor", "line"),
        ({"periodMs": 1500, "transferMs": None}, 0.5, "poor", "unclear"),
        ({"periodMs": 1500, "transferMs": None, "decodeMs": 1400}, 0.5, "poor", "device"),
        ({"periodMs": 1500, "decodeMs": 1400}, 0.5, "poor", "device"),
        ({"periodMs": 1500}, 0.5, "poor", "unclear"),
    ],
)
def test_the_cause_of_a_slow_world_is_found(
    page: Page, chunk: dict[str, Any], share: float, level: str, cause: str | None
) -> None:
    usual = {"mediaMs": 750, "periodMs": 750, "serverMs": 200, "decodeMs": 10, "transferMs": 50}
    verdict = page.evaluate(
        """async (chunk) => {
            const { Speed } = await import("/static/session/speed.js");
            const speed = new Speed();
            for (let num = 0; num < 5; num++) speed.add(chunk);
            return speed.verdict;
        }""",
        usual | chunk,
    )
    assert verdict == {"share": share, "level": level, "cause": cause}


def test_the_line_is_the_cause_as_far_as_it_was_measured(page: Page) -> None:
    """Chunks of one message measure no line."""
    cause = page.evaluate(
        """async () => {
            const { Speed } = await import("/static/session/speed.js");
            const chunk = { mediaMs: 750, periodMs: 1500, serverMs: 200, decodeMs: 10 };
            const speed = new Speed();
            for (const transferMs of [null, 1400, null, null, null]) {
                speed.add({ ...chunk, transferMs });
            }
            return speed.verdict.cause;
        }"""
    )
    assert cause == "line"


@pytest.mark.parametrize(
    ("period_ms", "wait_ms", "forward_ms", "line_ms", "server_ms", "cause"),
    [
        (880, 460, 680, 860, 420, "line"),  # denoising 420, decoding 260
        (880, 580, 680, 860, 380, "line"),  # denoising 300, decoding 380
        (900, 600, 1200, 50, 900, "server"),  # the wait for the turn is one for decoding
        (1000, 0, 1300, 50, 1000, "server"),  # denoising 1000, decoding 300
        (700, 5000, 680, 50, 680, None),  # the first chunk after a wait has no period
    ],
)
def test_decoding_overlaps_with_the_next_chunk(
    page: Page,
    period_ms: int,
    wait_ms: int,
    forward_ms: int,
    line_ms: int,
    server_ms: int,
    cause: str | None,
) -> None:
    measured = page.evaluate(
        """async ({ stats, lineMs }) => {
            const { LineMeter } = await import("/static/session/line.js");
            const { Speed } = await import("/static/session/speed.js");
            const [meter, speed] = [new LineMeter(), new Speed()];
            let chunk;
            for (let at = 0; at < 5; at++) {
                const [nowMs, chunkIndex] = [5000 * (at + 1), at];
                meter.addBatch(nowMs, { chunkIndex, numBytes: 100_000, beganMs: nowMs - lineMs });
                meter.addDecoded(nowMs + 10, chunkIndex);
                chunk = meter.finish(stats, 16);
                speed.add(chunk);
            }
            return { serverMs: chunk.serverMs, cause: speed.verdict.cause };
        }""",
        {
            "lineMs": line_ms,
            "stats": {
                "num_frames": 12,
                "chunk_total_ms": period_ms,
                "pace_wait_ms": wait_ms,
                "scheduler_forward_ms": forward_ms,
                "raw_payload_build_ms": 0,
            },
        },
    )
    assert measured == {"serverMs": server_ms, "cause": cause}
