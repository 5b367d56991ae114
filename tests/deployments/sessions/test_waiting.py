import pytest

from deployments.sessions.waiting import WaitingLine
from transport.wire.messages import Queued, Starting


@pytest.fixture
def line():
    return WaitingLine(queue_timeout_s=60, warm_up_timeout_s=900)


def test_positions_follow_the_order_of_arrival(line):
    first, second, third = (line.join(now) for now in (0, 1, 2))
    assert line.status(third, ready=True, now=3) == Queued(3, all_taken=True)
    line.leave(first)
    assert line.status(second, ready=True, now=3) == Queued(1, all_taken=True)
    assert line.status(third, ready=True, now=3) == Queued(2, all_taken=True)
    assert len(line) == 2


def test_a_client_has_no_position_before_the_group_is_ready(line):
    line.join(0)
    assert line.status(line.join(0), ready=False, now=1) == Starting()


def test_a_client_gives_up_after_the_queue_timeout(line):
    client = line.join(10)
    line.status(client, ready=True, now=10)
    assert line.give_up_reason(client, ready=True, now=70) is None
    reason = line.give_up_reason(client, ready=True, now=70.5)
    assert reason == "every world is taken; gave up after 60 s"


def test_a_client_gives_up_after_the_warm_up_timeout(line):
    client = line.join(10)
    line.status(client, ready=False, now=910)
    assert line.give_up_reason(client, ready=False, now=910) is None
    reason = line.give_up_reason(client, ready=False, now=911)
    assert reason == "the world is still warming up; gave up after 900 s"


def test_the_queue_clock_starts_when_the_warm_up_is_over(line):
    client = line.join(0)
    line.status(client, ready=False, now=800)
    assert line.status(client, ready=True, now=801) == Queued(1, all_taken=True)
    assert line.give_up_reason(client, ready=True, now=861) is None
    assert line.give_up_reason(client, ready=True, now=862)


def test_the_queue_clock_starts_once(line):
    """A group that restarts gives nobody a second full wait."""
    client = line.join(0)
    line.status(client, ready=True, now=1)
    line.status(client, ready=False, now=30)
    line.status(client, ready=True, now=50)
    assert line.give_up_reason(client, ready=True, now=62)


def test_each_client_has_its_own_clock(line):
    early, late = line.join(0), line.join(50)
    line.status(early, ready=True, now=0)
    line.status(late, ready=True, now=50)
    assert line.give_up_reason(early, ready=True, now=61)
    assert line.give_up_reason(late, ready=True, now=61) is None
