import pytest

from transport.wire.messages import Paced
from transport.wire.speed import SpeedMeter


@pytest.fixture
def measure():
    """Notes chunks of 12 frames at 12 frames/s, by seconds. Returns the news of each."""
    meter = SpeedMeter(fps=12)

    def note(*took_s, decoding_s=0.1):
        return [
            meter.note_chunk(num_frames=12, took_s=one, decoding_s=decoding_s) for one in took_s
        ]

    return note


def test_a_world_that_keeps_up_is_no_news(measure):
    assert measure(*[0.4] * 10, *[1.05] * 10) == [None] * 20


def test_a_slow_world_is_told_once_and_again_when_it_has_recovered(measure):
    assert measure(*[2.0] * 5) == [None, None, None, None, Paced(50)]
    assert measure(*[0.5] * 5) == [None, None, Paced(100), None, None]


def test_one_late_chunk_is_no_news(measure):
    assert measure(0.5, 0.5, 9.0, 0.5, 0.5, 0.5, 0.5, 0.5) == [None] * 8


def test_a_speed_about_the_limit_does_not_flicker(measure):
    assert measure(*[1.15] * 5)[-1] == Paced(87)
    assert measure(*[1.08] * 6) == [None] * 6
    assert Paced(100) in measure(*[1.04] * 6)


def test_a_slow_world_that_becomes_much_slower_is_told_again(measure):
    measure(*[1.25] * 5)
    assert [one for one in measure(*[1.3] * 5, *[4.0] * 5) if one] == [Paced(25)]


def test_the_longer_of_denoising_and_decoding_counts(measure):
    assert measure(*[0.5] * 5, decoding_s=1.6)[-1] == Paced(62)
