"""Gauges whose values stay. Tested in `tests/deployments/observability/test_lasting_gauge.py`."""

import threading
import time
from collections.abc import Callable
from typing import Any

from ray.util.metrics import Gauge

REPEAT_S = 5.0


class LastingGauge(Gauge):
    """Ray's gauge, whose values are set again and again by one thread of the process.

    Ray's exporter drops the value of a gauge that was not set for two of its reports, 20 s.
    """

    def __init__(self, name: str, *, description: str, tag_keys: tuple[str, ...]) -> None:
        super().__init__(name, description=description, tag_keys=tag_keys)
        self._values: dict[tuple[tuple[str, str], ...], float | None] = {}  # by tags
        self._lock = threading.Lock()
        _repeater.add(self.repeat)

    def set(self, value: float | None, tags: dict[str, str] | None = None) -> None:
        tags = tags or {}
        with self._lock:  # or `repeat` could set an older value after this one
            self._values[tuple(tags.items())] = value
            super().set(value, tags=tags)

    def repeat(self) -> None:
        """Set every value once more."""
        with self._lock:
            for tags, value in self._values.items():
                super().set(value, tags=dict(tags))


class _Repeater:
    """The thread. It starts with the first gauge, and ends with the process."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], Any]] = []

    def add(self, call: Callable[[], Any]) -> None:
        self._calls.append(call)
        if len(self._calls) == 1:
            threading.Thread(target=self._run, name="gauges", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(REPEAT_S)
            for call in list(self._calls):
                call()


_repeater = _Repeater()
