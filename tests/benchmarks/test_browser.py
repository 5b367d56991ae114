"""The metrics that the browser benchmark computes from the page's statistics."""

import pytest

from benchmarks.browser import summarize_playout

FPS = 16


def test_metrics_exclude_the_first_chunks_and_are_shares_of_media_time():
    """Chunks last 750 ms (12 frames). The excluded one is slow, the others take 300 and 600 ms."""
    watched = [
        stats(at=0.0, received=9, shown=0, late=0, chunk_ms=None),
        stats(at=5000.0, received=21, shown=9, late=40, chunk_ms=9000),
        stats(at=5300.0, received=33, shown=12, late=40, chunk_ms=600),
        stats(at=5900.0, received=45, shown=27, late=43, chunk_ms=900),
    ]
    metrics = summarize_playout(watched, fps=FPS, left_out=2)
    assert metrics["chunks"] == 2
    assert metrics["period_over_media_p50"] == pytest.approx(0.6)
    assert metrics["period_over_media_p95"] == pytest.approx(0.78)
    assert metrics["latency_over_media_p50"] == pytest.approx(1.0)
    assert metrics["shown_frames_per_s"] == 20.0
    assert (metrics["late_chunks"], metrics["late_frames"]) == (1, 3)
    assert metrics["cut_frames"] == metrics["dropped_frames"] == 0


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
