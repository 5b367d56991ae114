import pytest

from transport.wire.error_budget import ErrorBudget


def spend_all(budget, times_s):
    """The number of errors before the first that is too many."""
    for num, now_s in enumerate(times_s):
        if not budget.spend(now_s):
            return num
    return len(times_s)


@pytest.mark.parametrize("start_s", [0.0, 1e6])
def test_a_flood_overspends(start_s):
    assert spend_all(ErrorBudget(max_per_minute=100), [start_s] * 200) == 100


@pytest.mark.parametrize("period_s", [5.0, 1.0, 0.6])
def test_a_slow_trickle_never_overspends(period_s):
    times_s = [7.0 + index * period_s for index in range(20_000)]
    assert spend_all(ErrorBudget(max_per_minute=100), times_s) == len(times_s)


def test_a_fast_trickle_overspends_in_the_end():
    times_s = [index * 0.5 for index in range(1000)]  # 120 a minute
    assert 400 < spend_all(ErrorBudget(max_per_minute=100), times_s) < 700


def test_a_spent_budget_is_full_again_after_a_minute():
    budget = ErrorBudget(max_per_minute=100)
    assert spend_all(budget, [0.0] * 100) == 100
    assert spend_all(budget, [60.0] * 101) == 100


def test_without_a_budget_the_first_error_is_too_many():
    assert not ErrorBudget(max_per_minute=0).spend(5.0)
