import logging

from lingbot.checkpoint.progress import LoadProgress


def lines(caplog, *, times, every_s=10.0, num_bytes=2_000_000_000):
    """The lines of a load of 20 GB that adds `num_bytes` at each time after the first."""
    ticks = iter(times)
    with caplog.at_level(logging.INFO, logger="lingbot"):
        progress = LoadProgress(20_000_000_000, every_s, clock=lambda: next(ticks))
        for _ in times[1:]:
            progress.add(num_bytes)
    return [record.getMessage() for record in caplog.records]


def test_a_long_load_logs_its_rate_and_the_time_left(caplog):
    assert lines(caplog, times=[100, 105, 110, 115, 121]) == [
        "loading weights: 4.0 of 20.0 GB, 0.40 GB/s, 40 s left",
        "loading weights: 8.0 of 20.0 GB, 0.38 GB/s, 32 s left",
    ]


def test_a_short_load_logs_nothing(caplog):
    assert lines(caplog, times=[0, 4, 9]) == []


def test_a_period_of_zero_logs_each_tensor(caplog):
    """Even one of no bytes, and none in no time at all."""
    assert len(lines(caplog, times=[0, 0, 1, 2], every_s=0.0)) == 2
    assert len(lines(caplog, times=[0, 1], every_s=0.0, num_bytes=0)) == 3
