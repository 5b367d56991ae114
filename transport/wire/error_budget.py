"""How many invalid messages a client may send: a rate, so that a long session may err at times."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class ErrorBudget:
    """A token bucket of `max_per_minute` tokens, filled up within a minute."""

    max_per_minute: int
    _num_spent: float = 0.0  # less what has been refilled
    _spent_at_s: float = 0.0

    def spend(self, now_s: float) -> bool:
        """Counts one invalid message. Returns False once the budget is overspent."""
        refilled = (now_s - self._spent_at_s) * self.max_per_minute / 60
        self._num_spent = max(0.0, self._num_spent - refilled) + 1
        self._spent_at_s = now_s
        return self._num_spent <= self.max_per_minute
