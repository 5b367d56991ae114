import math

import pytest

from transport.wire.errors import BadMessage
from transport.wire.pacing import Pacer


def test_the_first_chunk_does_not_wait():
    assert Pacer(fps=16).wait_s(100.0) == 0.0


def test_the_next_chunk_starts_just_in_time():
    pacer = Pacer(fps=16)
    pacer.generated(100.0, num_frames=12, took_s=0.1)
    # The chunk lasts 0.75 s, and the next one must start 2 * 0.1 + 0.1 s before its end.
    assert pacer.wait_s(100.0) == pytest.approx(0.45)
    assert pacer.wait_s(100.4) == pytest.approx(0.05)
    assert pacer.wait_s(101.0) == 0.0


def test_an_underrun_comes_when_all_frames_have_been_shown():
    pacer = Pacer(fps=16)
    assert pacer.time_to_underrun_s(100.0) == 0.0
    pacer.generated(100.0, num_frames=12, took_s=0.1)
    assert pacer.time_to_underrun_s(100.5) == pytest.approx(0.25)
    assert pacer.time_to_underrun_s(102.0) == 0.0


def test_no_underrun_is_more_than_a_chunk_away():
    pacer = Pacer(fps=16, paced=False, acknowledged=True)
    for _ in range(20):
        pacer.generated(100.0, num_frames=12, took_s=0.1)
    assert pacer.time_to_underrun_s(100.0) == pytest.approx(0.75)


@pytest.mark.parametrize(
    "denoising_s, decoding_s", [(0.5, 0.4), (0.7, 0.7), (0.1, 0.7), (0.7, 0.1)]
)
def test_a_world_that_overlaps_keeps_up_if_the_longer_half_does(denoising_s, decoding_s):
    """A chunk lasts 0.75 s. Its frames are decoded after those of the chunk before."""
    pacer, now, decoded = Pacer(fps=16), 0.0, 0.0
    arrivals = []
    for _ in range(40):
        now += pacer.wait_s(now) + denoising_s
        pacer.generated(now, num_frames=12, took_s=denoising_s, decoding_s=decoding_s)
        decoded = max(decoded, now) + decoding_s
        arrivals.append(decoded)
    periods = [later - earlier for earlier, later in zip(arrivals[9:], arrivals[10:], strict=False)]
    assert max(periods) == pytest.approx(0.75)


@pytest.mark.parametrize("denoising_s", [0.01, 0.2, 0.7])
def test_a_client_with_neither_acks_nor_pacing_is_30_s_of_media_ahead(denoising_s):
    pacer, now, waits = Pacer(fps=16, paced=False), 0.0, []
    for index in range(1000):
        waits.append(pacer.wait_s(now))
        now += waits[-1] + denoising_s
        pacer.generated(now, num_frames=12, took_s=denoising_s)
        ahead_s = 0.75 * (index + 1) - (now - denoising_s)
        assert ahead_s <= 30.75 + denoising_s, "the bound, and the chunk in generation"
    num_at_once = waits.index(next(wait for wait in waits if wait > 0))
    assert num_at_once >= 40, "30 s of media without a wait"
    assert sum(waits[num_at_once:]) + denoising_s * (1000 - num_at_once) == pytest.approx(
        0.75 * (1000 - num_at_once), rel=0.01
    )


def test_an_outlier_in_decoding_is_capped():
    pacer = Pacer(fps=16)
    pacer.generated(100.0, num_frames=12, took_s=0.1, decoding_s=5.0)
    assert pacer.wait_s(100.0) <= 0.75


def test_a_slow_world_does_not_wait():
    pacer = Pacer(fps=16)
    pacer.generated(100.0, num_frames=12, took_s=0.6)
    assert pacer.wait_s(100.0) == 0.0


def test_the_lead_is_at_most_one_chunk():
    pacer = Pacer(fps=16)
    pacer.generated(100.0, num_frames=12, took_s=0.1)
    pacer.generated(100.0, num_frames=12, took_s=5.0)
    assert pacer.wait_s(100.0) == pytest.approx(0.75)


def test_steady_chunks_keep_the_media_rate():
    pacer, now = Pacer(fps=16), 0.0
    starts = []
    for _ in range(20):
        now += pacer.wait_s(now)
        starts.append(now)
        now += 0.1
        pacer.generated(now, num_frames=12, took_s=0.1)
    periods = [later - earlier for earlier, later in zip(starts[1:-1], starts[2:], strict=True)]
    assert periods == pytest.approx([0.75] * 18)


def test_no_burst_follows_a_stall():
    pacer = Pacer(fps=16)
    pacer.generated(0.0, num_frames=12, took_s=0.1)
    pacer.generated(10.0, num_frames=12, took_s=0.1)  # 9.25 s late
    assert pacer.wait_s(10.0) == pytest.approx(0.45)


def test_an_unpaced_world_is_as_fast_as_its_acks():
    pacer = Pacer(fps=16, paced=False, acknowledged=True)
    pacer.generated(0.0, num_frames=9, took_s=0.1)
    assert pacer.wait_s(0.0) == 0.0
    pacer.generated(0.1, num_frames=12, took_s=0.1)
    assert pacer.wait_s(0.1) == math.inf
    pacer.acknowledge(0)
    assert pacer.wait_s(0.1) == 0.0


def test_pacing_and_acks_apply_together():
    pacer = Pacer(fps=16, acknowledged=True)
    pacer.generated(0.0, num_frames=12, took_s=0.1)
    assert 0.0 < pacer.wait_s(0.0) < math.inf
    pacer.generated(0.75, num_frames=12, took_s=0.1)
    assert pacer.wait_s(9.0) == math.inf


def test_an_ack_covers_earlier_chunks_and_may_be_repeated():
    pacer = Pacer(fps=16, paced=False, acknowledged=True)
    for _ in range(2):
        pacer.generated(0.0, num_frames=12, took_s=0.1)
    pacer.acknowledge(1)
    pacer.acknowledge(0)
    assert pacer.wait_s(0.0) == 0.0


def test_a_chunk_that_was_not_sent_cannot_be_acknowledged():
    pacer = Pacer(fps=16, acknowledged=True)
    pacer.generated(0.0, num_frames=12, took_s=0.1)
    with pytest.raises(BadMessage, match="chunk 1 has not been sent, only 1 have") as caught:
        pacer.acknowledge(1)
    assert caught.value.field == "chunk_index"


def test_in_latest_mode_generation_does_not_wait_for_acks():
    pacer = Pacer(fps=16, acknowledged=True, latest=True)
    for _ in range(5):
        pacer.generated(100.0, num_frames=12, took_s=0.1)
    assert pacer.wait_s(100.0) < math.inf


@pytest.mark.parametrize("latest", [False, True])
def test_at_most_two_chunks_are_in_flight(latest):
    pacer = Pacer(fps=16, acknowledged=True, latest=latest)
    for index in range(4):
        pacer.generated(100.0, num_frames=12, took_s=0.1)
        if index != 1:  # chunk 1 was dropped
            assert pacer.may_send is (index < 3)
            pacer.sent(index)
    assert not pacer.may_send
    pacer.acknowledge(0)
    assert not pacer.may_send
    pacer.acknowledge(2)
    assert pacer.may_send
    pacer.acknowledge(2)
    assert pacer.may_send


def test_an_ack_before_the_end_of_the_sending_counts():
    pacer = Pacer(fps=16, acknowledged=True)
    pacer.generated(100.0, num_frames=12, took_s=0.1)
    pacer.acknowledge(0)
    pacer.sent(0)
    pacer.generated(100.0, num_frames=12, took_s=0.1)
    pacer.sent(1)
    assert pacer.may_send


def test_without_acks_every_chunk_may_be_sent():
    pacer = Pacer(fps=16)
    for index in range(9):
        pacer.sent(index)
    assert pacer.may_send


def test_a_chunk_that_flushes_older_frames_restarts_the_media_clock():
    """The rest of older chunks is not shown, so the next chunk starts that much earlier."""
    ends = {}
    for flushes_older in (False, True):
        pacer = Pacer(fps=16)
        pacer.generated(100.0, num_frames=12, took_s=0.1)
        pacer.generated(100.5, num_frames=12, took_s=0.1, flushes_older=flushes_older)
        ends[flushes_older] = 100.5 + pacer.wait_s(100.5)
    assert ends[False] - ends[True] == pytest.approx(0.25)


def test_a_late_chunk_tells_for_how_long_the_client_had_nothing_to_show():
    pacer, stalls = Pacer(fps=16), []
    # The first ends no playout; the second is shown until 101.5 s; the last flushes older ones.
    for now_s, decoding_s, flushes in (
        (100.0, 0.0, False),
        (100.7, 0.0, False),
        (101.6, 0.2, False),
        (102.0, 0.0, True),
    ):
        pacer.generated(
            now_s, num_frames=12, took_s=0.1, decoding_s=decoding_s, flushes_older=flushes
        )
        stalls.append(pacer.stall_s)
    assert stalls == pytest.approx([0.0, 0.0, 0.3, 0.0])


def test_the_first_chunk_after_a_pause_is_no_stall():
    pacer = Pacer(fps=16)
    for now_s in (100.0, 110.0):
        pacer.generated(now_s, num_frames=12, took_s=0.1)
    assert pacer.stall_s == pytest.approx(9.25)
    pacer.note_resume()
    pacer.generated(120.0, num_frames=12, took_s=0.1)
    assert pacer.stall_s == 0.0
    pacer.generated(121.0, num_frames=12, took_s=0.1)
    assert pacer.stall_s == pytest.approx(0.25)
