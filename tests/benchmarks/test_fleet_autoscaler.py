import pytest

from benchmarks.fleet_autoscaler import Autoscaler


def create(**options):
    return Autoscaler(
        **{
            "target_ongoing": 2.0,
            "min_groups": 0,
            "max_groups": 10,
            "upscale_delay_s": 30.0,
            "downscale_delay_s": 600.0,
            "look_back_s": 30.0,
        }
        | options
    )


def follow(autoscaler, num_wanted, times):
    """The wanted number after each decision, with all of them up at once."""
    decisions = []
    for now in times:
        num_wanted = autoscaler.decide(num_up=num_wanted, num_wanted=num_wanted, now=now)
        decisions.append(num_wanted)
    return decisions


def test_groups_are_added_after_the_delay():
    autoscaler = create()
    autoscaler.note(7, 0)
    assert follow(autoscaler, 1, range(0, 41, 10)) == [1, 1, 1, 4, 4]


def test_groups_are_taken_away_after_the_longer_delay():
    autoscaler = create()
    autoscaler.note(1, 0)
    decisions = follow(autoscaler, 4, range(0, 611, 10))
    assert decisions[:-2] == [4] * 60
    assert decisions[-2:] == [1, 1]


def test_a_moment_of_the_other_wish_restarts_the_delay():
    autoscaler = create(look_back_s=10.0)
    autoscaler.note(7, 0)
    assert follow(autoscaler, 1, [0, 10]) == [1, 1]
    autoscaler.note(1, 10)
    assert follow(autoscaler, 1, [20]) == [1]
    autoscaler.note(7, 20)
    assert follow(autoscaler, 1, [30, 40, 50, 60]) == [1, 1, 1, 4]


def test_the_first_group_starts_at_once():
    autoscaler = create()
    autoscaler.note(7, 0)
    assert autoscaler.decide(num_up=0, num_wanted=0, now=0) == 1
    assert autoscaler.decide(num_up=0, num_wanted=1, now=200) == 1  # until it is up


def test_the_last_group_goes_in_a_step_of_its_own():
    autoscaler = create(downscale_delay_s=10.0)
    assert follow(autoscaler, 4, [0, 10, 20, 30]) == [4, 1, 1, 0]


def test_the_mean_over_the_look_back_decides():
    autoscaler = create(upscale_delay_s=0.0)
    autoscaler.note(2, 0)
    assert follow(autoscaler, 1, [0, 30]) == [1, 1]
    autoscaler.note(8, 45)
    assert follow(autoscaler, 1, [60]) == [3]  # (2 * 15 + 8 * 15) / 30 = 5 leases
    assert follow(autoscaler, 3, [90]) == [4]


@pytest.mark.parametrize(("ongoing", "expected"), [(0, 2), (1000, 10)])
def test_the_bounds_hold(ongoing, expected):
    autoscaler = create(min_groups=2, upscale_delay_s=0.0, downscale_delay_s=0.0)
    autoscaler.note(ongoing, 0)
    assert follow(autoscaler, 4, [0]) == [expected]
