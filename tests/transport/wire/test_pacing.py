import math

import pytest

from transport.wire.errors import BadMessage
from transport.wire.pacing import Pacer


def test_the_first_chunk_waits_for_nothing():
    assert Pacer(fps=16).wait_s(100.0) == 0.0


def test_the_next_chunk_starts_just_in_time():
    pacer = Pacer(fps=16)
    pacer.generated(100.0, num_frames=12, took_s=0.1)
    # 0.75 s of pictures, and 2 * 0.1 + 0.1 s before their end the next chunk must start
    assert pacer.wait_s(100.0) == pytest.approx(0.45)
    assert pacer.wait_s(100.4) == pytest.approx(0.05)
    assert pacer.wait_s(101.0) == 0.0


def test_a_chunk_is_due_when_there_is_nothing_left_to_show():
    pacer = Pacer(fps=16)
    assert pacer.time_to_underrun_s(100.0) == 0.0
    pacer.generated(100.0, num_frames=12, took_s=0.1)
    assert pacer.time_to_underrun_s(100.5) == pytest.approx(0.25)
    assert pacer.time_to_underrun_s(102.0) == 0.0


def test_nothing_is_due_later_than_in_a_chunk():
    pacer = Pacer(fps=16, paced=False, acknowledged=True)
    for _ in range(20):
        pacer.generated(100.0, num_frames=12, took_s=0.1)
    assert pacer.time_to_underrun_s(100.0) == pytest.approx(0.75)


@pytest.mark.parametrize("denoise, decode", [(0.5, 0.4), (0.7, 0.7), (0.1, 0.7), (0.7, 0.1)])
def test_a_world_that_overlaps_keeps_up_if_the_longer_half_does(denoise, decode):
    """A chunk lasts 0.75 s; its pictures come after those of the chunk before."""
    pacer, now, pictures = Pacer(fps=16), 0.0, 0.0
    arrivals = []
    for _ in range(40):
        now += pacer.wait_s(now) + denoise
        pacer.generated(now, num_frames=12, took_s=denoise, decoding_s=decode)
        pictures = max(pictures, now) + decode
        arrivals.append(pictures)
    periods = [later - earlier for earlier, later in zip(arrivals[9:], arrivals[10:], strict=False)]
    assert max(periods) == pytest.approx(0.75)


def test_an_accident_in_decoding_is_not_planned_for():
    pacer = Pacer(fps=16)
    pacer.generated(100.0, num_frames=12, took_s=0.1, decoding_s=5.0)
    assert pacer.wait_s(100.0) <= 0.75


def test_a_slow_world_starts_at_once():
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


def test_after_a_stall_there_is_no_burst_to_catch_up():
    pacer = Pacer(fps=16)
    pacer.generated(0.0, num_frames=12, took_s=0.1)
    pacer.generated(10.0, num_frames=12, took_s=0.1)  # 9.25 s late
    assert pacer.wait_s(10.0) == pytest.approx(0.45)


def test_unpaced_runs_as_fast_as_acks_come():
    pacer = Pacer(fps=16, paced=False, acknowledged=True)
    pacer.generated(0.0, num_frames=9, took_s=0.1)
    assert pacer.wait_s(0.0) == 0.0
    pacer.generated(0.1, num_frames=12, took_s=0.1)
    assert pacer.wait_s(0.1) == math.inf
    pacer.acknowledge(0)
    assert pacer.wait_s(0.1) == 0.0


def test_paced_and_acknowledged_both_count():
    pacer = Pacer(fps=16, acknowledged=True)
    pacer.generated(0.0, num_frames=12, took_s=0.1)
    assert 0.0 < pacer.wait_s(0.0) < math.inf
    pacer.generated(0.75, num_frames=12, took_s=0.1)
    assert pacer.wait_s(9.0) == math.inf


def test_an_ack_covers_what_came_before_it_and_may_be_repeated():
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


def test_who_wants_the_latest_makes_no_world_wait():
    pacer = Pacer(fps=16, acknowledged=True, latest=True)
    for _ in range(5):
        pacer.generated(100.0, num_frames=12, took_s=0.1)
    assert pacer.wait_s(100.0) < math.inf


@pytest.mark.parametrize("latest", [False, True])
def test_two_chunks_are_on_their_way_and_no_more(latest):
    pacer = Pacer(fps=16, acknowledged=True, latest=latest)
    for index in range(4):
        pacer.generated(100.0, num_frames=12, took_s=0.1)
        if index != 1:  # that one was dropped
            assert pacer.may_send is (index < 3)
            pacer.sent(index)
    assert not pacer.may_send
    pacer.acknowledge(0)
    assert not pacer.may_send
    pacer.acknowledge(2)
    assert pacer.may_send
    pacer.acknowledge(2)
    assert pacer.may_send


def test_an_ack_that_outruns_the_sending_counts():
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


def test_a_chunk_that_cuts_over_starts_the_media_clock_again():
    """What was left of older chunks is not shown: the next one is due so much earlier."""
    ends = {}
    for cut_over in (False, True):
        pacer = Pacer(fps=16)
        pacer.generated(100.0, num_frames=12, took_s=0.1)
        pacer.generated(100.5, num_frames=12, took_s=0.1, flushes_older=cut_over)
        ends[cut_over] = 100.5 + pacer.wait_s(100.5)
    assert ends[False] - ends[True] == pytest.approx(0.25)
