"""Results of the evaluation, with and without a target.

Tested in `tests/pocket/test_evaluate.py`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One line of the table that `python -m pocket.evaluate` prints."""

    name: str
    value: float
    unit: str
    target: str = ""
    met: bool | None = None  # None: there is no target


def without_target(name: str, value: float, unit: str = "") -> Metric:
    return Metric(name=name, value=value, unit=unit)


def at_least(name: str, value: float, unit: str, bound: float) -> Metric:
    return Metric(name=name, value=value, unit=unit, target=f">= {bound:g}", met=value >= bound)


def more_than(name: str, value: float, unit: str, bound: float) -> Metric:
    return Metric(name=name, value=value, unit=unit, target=f"> {bound:g}", met=value > bound)


def at_most(name: str, value: float, unit: str, bound: float) -> Metric:
    return Metric(name=name, value=value, unit=unit, target=f"<= {bound:g}", met=value <= bound)


def within(name: str, value: float, unit: str, low: float, high: float) -> Metric:
    met = low <= value <= high
    return Metric(name=name, value=value, unit=unit, target=f"{low:g} to {high:g}", met=met)
