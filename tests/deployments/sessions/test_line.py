import pytest

from deployments.sessions.line import MAX_RETRY_S, UNKNOWN_RETRY_S, Line, LineFull


@pytest.fixture
def line():
    return Line(max_waiting=3)


def test_clients_stand_in_the_order_in_which_they_asked_first(line):
    line.join("late", now=10)
    line.join("from elsewhere", now=11, waited_s=5)
    line.join("last", now=12)
    assert line.first == "from elsewhere"
    assert [line.position(name) for name in ("from elsewhere", "late", "last")] == [1, 2, 3]


def test_clients_of_the_same_moment_keep_their_order(line):
    for name in ("b", "a", "c"):
        line.join(name, now=1)
    assert [line.position(name) for name in ("b", "a", "c")] == [1, 2, 3]


def test_a_client_that_asks_again_keeps_its_place(line):
    line.join("first", now=0)
    line.join("second", now=1)
    line.leave("first")
    line.join("first", now=5, waited_s=5)
    assert line.first == "first"


def test_a_place_under_another_id_is_the_same_place(line):
    for number, name in enumerate(("first", "second", "third")):
        line.join(name, now=number)
    line.rename("second", "again")
    line.rename("unknown", "nobody")
    assert [line.position(name) for name in ("first", "again", "third")] == [1, 2, 3]
    with pytest.raises(ValueError):
        line.position("second")


def test_a_full_line_turns_clients_away_but_no_session(line):
    for number in range(3):
        line.join(f"{number}", now=number)
    with pytest.raises(LineFull):
        line.join("too many", now=3)
    line.join_first("session", now=4)
    line.join_first("another", now=5)
    assert len(line) == 5
    assert [line.position(name) for name in ("session", "another", "0")] == [1, 2, 3]


def test_a_line_without_places_turns_everyone_away():
    with pytest.raises(LineFull):
        Line(max_waiting=0).join("client", now=0)


def test_a_client_that_leaves_frees_its_place(line):
    for number in range(3):
        line.join(f"{number}", now=number)
    line.leave("1")
    line.leave("unknown")
    assert line.position("2") == 2
    line.join("3", now=4)
    with pytest.raises(ValueError):
        line.position("1")


def test_an_empty_line_has_no_first(line):
    assert line.first is None
    line.join("client", now=0)
    line.leave("client")
    assert line.first is None


def test_the_estimate_is_unknown_before_the_first_admission(line):
    line.join("client", now=0)
    assert line.estimate_s(1, now=5) is None
    assert line.retry_after_s(now=5) == UNKNOWN_RETRY_S


def admit(line, name, now):
    assert line.first == name
    line.leave(name)
    line.admitted(now)


def test_the_estimate_is_the_mean_interval_for_each_position(line):
    for number in range(3):
        line.join(f"{number}", now=0)
    admit(line, "0", now=10)
    admit(line, "1", now=30)  # 10 s and 20 s: a place in 15 s
    assert line.estimate_s(1, now=30) == 15
    assert line.estimate_s(2, now=36) == 24
    assert line.estimate_s(1, now=99) == 0
    assert line.retry_after_s(now=30) == 30  # one client waits: position 2


def test_time_in_which_nobody_waits_is_not_an_interval(line):
    line.join("early", now=0)
    admit(line, "early", now=10)
    line.join("late", now=1000)
    admit(line, "late", now=1010)
    line.join("next", now=1010)
    assert line.estimate_s(1, now=1010) == 10


def test_asking_again_alone_does_not_shorten_the_interval(line):
    line.join("client", now=0)
    for now in range(5, 60, 5):
        line.leave("client")
        line.join("client", now=now, waited_s=now)
    admit(line, "client", now=60)
    line.join("next", now=60)
    assert line.estimate_s(1, now=60) == 60


def test_a_retry_is_a_whole_number_of_seconds_within_bounds(line):
    line.join("client", now=0)
    admit(line, "client", now=0.2)
    assert line.retry_after_s(now=0.2) == 1
    line.join("client", now=0.2)
    admit(line, "client", now=10_000)
    assert line.retry_after_s(now=10_000) == MAX_RETRY_S


def test_limits_may_change_while_clients_wait(line):
    for number in range(3):
        line.join(f"{number}", now=number)
    line.max_waiting = 1
    assert line.position("2") == 3
    with pytest.raises(LineFull):
        line.join("3", now=4)
