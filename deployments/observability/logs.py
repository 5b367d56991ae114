"""Logging of a replica's process. Serve configures its own logger and no other.

Tested in `tests/deployments/observability/test_logs.py` and `tests/deployments/test_sockets.py`.
"""

import logging
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

ROOMS = ("deployments", "lingbot", "transport")


class JsonFormatter(logging.Formatter):
    """One JSON object a line. The fields of `extra={"fields": {...}}` are keys of it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def configure_logging(log_format: Literal["text", "json"] = "text") -> None:
    """Write our rooms' lines, from INFO on, to this process's stderr. It may be called again."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter()
        if log_format == "json"
        else logging.Formatter("%(levelname)s %(asctime)s %(name)s -- %(message)s")
    )
    for room in ROOMS:
        logger = logging.getLogger(room)
        logger.setLevel(logging.INFO)
        logger.handlers = [handler]
