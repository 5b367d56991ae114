"""What the browser benchmark makes of the page's statistics."""

import pytest

from benchmarks.browser import summarize

FPS = 16


def test_figures_leave_the_first_chunks_out_and_are_shares_of_media_time():
    """Chunks of 12 frames, 750 ms: the one left out is slow, the others take 300 and 600 ms."""
    watched = [
        stats(at=0.0, received=9, shown=0, late=0, chunk_ms=None),
        stats(at=5000.0, received=21, shown=9, late=40, chunk_ms=9000),
        stats(at=5300.0, received=33, shown=12, late=40, chunk_ms=600),
        stats(at=5900.0, received=45, shown=27, late=43, chunk_ms=900),
    ]
    figures = summarize(watched, fps=FPS, left_out=2)
    assert figures["chunks"] == 2
    assert figures["period_over_media_p50"] == pytest.approx(0.6)
    assert figures["period_over_media_p95"] == pytest.approx(0.78)
    assert figures["latency_over_media_p50"] == pytest.approx(1.0)
    assert figures["shown_frames_per_s"] == 20.0
    assert (figures["late_chunks"], figures["late_frames"]) == (1, 3)
    assert figures["cut_frames"] == figures["dropped_frames"] == 0


def stats(*, at, received, shown, late, chunk_ms):
    return {
        "at": at,
        "chunkMs": chunk_ms,
        "framesReceived": received,
        "framesShown": shown,
        "framesLate": late,
        "framesCut": 0,
        "framesDropped": 0,
    }
