import json
import logging
import sys
from datetime import UTC, datetime

import pytest

from deployments.observability.logs import ROOMS, JsonFormatter, configure_logging


def line_of(record):
    text = JsonFormatter().format(record)
    assert "\n" not in text
    return json.loads(text)


def record_of(text, *args, **kwargs):
    record = logging.LogRecord("transport.x", logging.WARNING, __file__, 1, text, args, None)
    record.__dict__.update(kwargs)
    return record


def test_a_line_is_one_json_object_with_the_fields_of_its_record():
    line = line_of(record_of("a %s\nb", 'quo"ted', fields={"session_id": "s1", "chunks": 3}))
    assert line["message"] == 'a quo"ted\nb'
    assert (line["level"], line["logger"]) == ("WARNING", "transport.x")
    assert (line["session_id"], line["chunks"]) == ("s1", 3)
    age = datetime.now(UTC) - datetime.fromisoformat(line["time"])
    assert 0 <= age.total_seconds() < 60


def test_a_traceback_is_a_key_of_the_line():
    try:
        raise ValueError("broken")
    except ValueError:
        record = record_of("failed")
        record.exc_info = sys.exc_info()
    assert line_of(record)["exception"].endswith("ValueError: broken")


def test_a_value_of_an_unknown_type_does_not_lose_the_line():
    assert line_of(record_of("x", fields={"path": Exception("odd")}))["path"] == "odd"


@pytest.fixture
def untouched_loggers():
    loggers = [logging.getLogger(room) for room in ROOMS]
    before = [(logger, logger.level, logger.handlers) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers = handlers


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_each_line_is_written_once_however_often_it_is_configured(
    log_format, untouched_loggers, capsys
):
    configure_logging(log_format)
    configure_logging(log_format)
    logging.getLogger("transport.session_log").info("hello", extra={"fields": {"kind": "clip"}})
    (line,) = capsys.readouterr().err.splitlines()
    if log_format == "json":
        assert json.loads(line)["kind"] == "clip"
    else:
        assert line.startswith("INFO ") and line.endswith("transport.session_log -- hello")
