"""Playback in a client that follows `chunk_stats`, as SGLang-Diffusion's web page does.

A whole connection runs on a virtual clock, so minutes of it take a second.
"""

import math
from dataclasses import dataclass

import pytest

from tests.transport.connection.virtual_clock import serve_on_virtual_clock, take_time

TICK_S = 1 / 60  # a frame of a browser's display


@dataclass
class Player:
    """The playback arithmetic of the web page; the constants are its own.

    The source rate follows `num_frames / chunk_total_ms`, slowly and never over the requested
    rate. In `timeline` mode frames are shown at that rate. Otherwise the speed also follows the
    buffer, within bounds.
    """

    fps: int
    timeline: bool
    num_received: int = 0
    num_shown: int = 0
    _source_fps: float = 0.0
    _speed: float = 1.0
    _chunk_s: float = 0.0
    _drawn_s: float = -math.inf

    def __post_init__(self):
        self._source_fps = self.fps

    def observe(self, message):
        if message["type"] == "frame_batch":
            self.num_received += message["num_frames"]
            return
        total_s, num_frames = message["chunk_total_ms"] / 1000, message["num_frames"]
        is_first = message["chunk_index"] == 0
        if is_first and total_s > max(1.5, 3 * num_frames / self.fps):
            return  # warm-up
        fps = min(max(num_frames / total_s, 1.0), self.fps)
        share = 0.28 if fps > self._source_fps else 0.2
        self._source_fps = fps if is_first else self._source_fps + share * (fps - self._source_fps)
        self._chunk_s = min(max(total_s, 1 / self.fps), 2.5)

    def draw(self, now_s):
        """Shows a frame if one is due."""
        buffered_s = (self.num_received - self.num_shown) / self._source_fps
        if not self.timeline:
            self._follow(buffered_s)
        period_s = 1 / (self._source_fps * self._speed)
        late_s = now_s - self._drawn_s
        if buffered_s == 0 or late_s < period_s:
            return
        self.num_shown += 1
        self._drawn_s = now_s if late_s > 4 * period_s else now_s - late_s % period_s

    def _follow(self, buffered_s):
        lead_s = min(max(0.45 * self._chunk_s, 0.18), 0.36)
        is_far_off = not 0.15 * lead_s <= buffered_s <= lead_s + 0.8 * self._chunk_s
        slowest, fastest = (0.86, 1.3) if is_far_off else (0.92, 1.12)
        wanted = min(max(1 + 0.16 * (buffered_s - lead_s) / lead_s, slowest), fastest)
        most = 0.35 * TICK_S
        self._speed += min(max(wanted - self._speed, -most), most)


def watch(received, player, *, seconds):
    """Shows the received frames. Returns, tick by tick, (frames received, frames shown)."""
    received, history = iter(received), []
    arrival_s, message = next(received)
    for tick in range(int(seconds / TICK_S)):
        while arrival_s <= tick * TICK_S:
            player.observe(message)
            arrival_s, message = next(received, (math.inf, None))
        player.draw(tick * TICK_S)
        history.append((player.num_received, player.num_shown))
    return history


@pytest.fixture
def play(make_world, monkeypatch):
    """Serves one session on a virtual clock. Returns what its client has received, and when."""

    def run(init, *, denoising_s, decoding_s, seconds):
        world = make_world()
        take_time(world, fps=init["fps"], denoising_s=denoising_s, decoding_s=decoding_s)
        return serve_on_virtual_clock(world, init, monkeypatch, seconds=seconds).received

    return run


@pytest.mark.parametrize("timeline", [True, False])
@pytest.mark.parametrize("fps", [16, 25])
@pytest.mark.parametrize("load", [0.3, 0.8])
def test_a_client_that_follows_chunk_stats_plays_at_full_speed(play, fps, timeline, load):
    busy_s = load * 12 / fps  # denoising and decoding each; together they may exceed a chunk
    received = play({"fps": fps}, denoising_s=busy_s, decoding_s=busy_s, seconds=60)
    history = watch(received, Player(fps, timeline), seconds=60)
    num_received, num_shown = history[-1]
    assert num_received / 60 > 0.95 * fps, "the world itself keeps up"
    assert num_shown >= 0.95 * num_received
    lags_s = [(received - shown) / fps for received, shown in history]
    assert max(lags_s) < 2


@pytest.mark.parametrize("fps", [16, 25])
def test_a_client_without_pacing_gets_30_s_of_media_at_once(play, fps):
    init = {"fps": fps, "realtime_output_pacing": False}
    received = play(init, denoising_s=0.05, decoding_s=0.05, seconds=90)
    media_s, ahead_s = 0.0, []
    for at_s, message in received:
        if message["type"] == "frame_batch":
            media_s += message["num_frames"] / fps
            ahead_s.append(media_s - at_s)
    assert 29 < max(ahead_s) < 31
    assert ahead_s[-1] > 29, "it stays ahead"
    assert next(at_s for at_s, _ in received if at_s > 0) < 1


@pytest.mark.parametrize("output", [{}, {"realtime_output_pacing": False}])
@pytest.mark.parametrize("period_s", [1.0, 1.5])
def test_a_slow_world_is_shown_as_fast_as_it_is_generated(play, output, period_s):
    received = play(
        {"fps": 16} | output, denoising_s=period_s, decoding_s=0.6 * period_s, seconds=90
    )
    history = watch(received, Player(16, timeline=True), seconds=90)
    num_received, num_shown = history[-1]
    assert num_shown >= 0.95 * num_received
    assert max(received - shown for received, shown in history) <= 24, "two chunks"


def test_the_total_is_the_time_between_chunks_and_the_forward_time_the_cost(play):
    received = play({"fps": 16}, denoising_s=0.4, decoding_s=0.3, seconds=30)
    arrivals_s, stats = zip(
        *((at_s, one) for at_s, one in received if one["type"] == "chunk_stats"), strict=True
    )
    totals_ms = [one["chunk_total_ms"] for one in stats]
    elapsed_s = arrivals_s[-1] - arrivals_s[0]
    assert sum(totals_ms[1:]) / 1000 == pytest.approx(elapsed_s, abs=0.2)
    # The media clock sets the period, although a chunk takes between 0.36 and 0.46 s.
    assert totals_ms[3:] == pytest.approx([750] * len(totals_ms[3:]), abs=60)
    for one in stats:
        assert 640 <= one["scheduler_forward_ms"] <= 780
        assert one["scheduler_forward_ms"] + one["pace_wait_ms"] < 1200
