"""What the evaluation reports."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    unit: str
    claim: str = ""
    met: bool | None = None  # None: nothing is claimed


def at_least(name: str, value: float, unit: str, bound: float) -> Figure:
    return Figure(name, value, unit, f">= {bound:g}", value >= bound)


def at_most(name: str, value: float, unit: str, bound: float) -> Figure:
    return Figure(name, value, unit, f"<= {bound:g}", value <= bound)


def within(name: str, value: float, unit: str, low: float, high: float) -> Figure:
    return Figure(name, value, unit, f"{low:g} to {high:g}", low <= value <= high)
