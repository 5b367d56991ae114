"""What a benchmark prints: tables for people, and one JSON line for programs."""

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.machine import describe_cpus

Row = dict[str, Any]  # figures by name


def print_table(title: str, rows: Mapping[Any, Row]) -> None:
    """One line for each row; all rows have the columns of the first."""
    columns = list(next(iter(rows.values())))
    print(f"\n{title}\n{'':26}" + "".join(f"{column:>19}" for column in columns))
    for name, row in rows.items():
        print(f"{name:26}" + "".join(f"{row[column]!s:>19}" for column in columns))


def print_json(benchmark: str, figures: Mapping[str, Any]) -> None:
    """One line: the benchmark's name, the machine, and the figures."""
    print(json.dumps({"benchmark": benchmark, **describe_cpus(), **figures}))
