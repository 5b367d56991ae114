import math
from contextlib import AsyncExitStack

import anyio
import pytest

from transport.access_config import TokenLimits
from transport.token_usage import LocalUsage, UsageCounts
from transport.tokens import Token
from transport.wire.errors import Busy

LIMITS = TokenLimits(max_sessions=2, max_clips=1, opens_per_minute=5)


def begin(counts, now, name="alice", kind="session", limits=LIMITS):
    counts.begin(name, kind, limits, now=now)


def refusal(counts, now, **fields):
    with pytest.raises(Busy) as refused:
        begin(counts, now, **fields)
    assert refused.value.close_code == 1013
    return str(refused.value), refused.value.retry_after_s


def test_sessions_and_clips_at_once_are_counted_apart_and_by_token():
    counts = UsageCounts()
    begin(counts, 0)
    begin(counts, 0)
    assert refusal(counts, 1) == ("this token may have 2 sessions at once", 5)
    begin(counts, 1, kind="clip")
    assert refusal(counts, 2, kind="clip") == ("this token may have 1 clips at once", 5)
    begin(counts, 2, name="bob")
    counts.end("alice", "session")
    begin(counts, 3)
    refusal(counts, 4)


@pytest.mark.parametrize("limit", ["max_sessions", "opens_per_minute"])
def test_nobody_is_told_to_come_back_for_what_is_never_allowed(limit):
    assert refusal(UsageCounts(), 0, limits=TokenLimits(**{limit: 0}))[1] is None


def test_opens_in_any_minute_are_limited_and_the_refusal_has_the_time_to_wait():
    counts = UsageCounts()
    for now in (0, 10, 20, 30, 40):
        begin(counts, now)
        counts.end("alice", "session")
    assert refusal(counts, 40.5) == ("this token may open 5 sessions and clips a minute", 20)
    assert refusal(counts, 59.9)[1] == 1
    begin(counts, 60)  # the first one is a minute ago
    counts.end("alice", "session")
    assert refusal(counts, 60, kind="clip")[1] == 10
    begin(counts, 60, name="bob")


def test_a_refused_open_is_not_counted():
    """A client that tries again and again gets in as soon as one that waits."""
    counts = UsageCounts()
    for _ in range(2):
        begin(counts, 0)
    for now in range(1000):
        refusal(counts, now / 100)
    counts.end("alice", "session")
    begin(counts, 10)


def test_no_open_at_all_may_be_a_limit():
    assert refusal(UsageCounts(), 0, limits=TokenLimits(opens_per_minute=0))[1] is None
    assert refusal(UsageCounts(), 0, limits=TokenLimits(max_sessions=0))[1] is None


def test_what_another_counter_let_in_is_counted_beyond_the_limit():
    counts = UsageCounts()
    for _ in range(3):
        counts.resume("alice", "session")
    refusal(counts, 0)
    for _ in range(2):
        counts.end("alice", "session")
    begin(counts, 0)


def test_names_that_are_not_used_any_more_take_no_memory():
    counts = UsageCounts()
    for number in range(1000):
        begin(counts, number / 10, name=f"jwt {number}")
        counts.end(f"jwt {number}", "session")
    assert len(counts) <= 601
    begin(counts, 200)
    assert len(counts) == 1


def test_a_context_is_counted_until_it_ends_however_it_ends():
    async def scenario():
        usage, token = LocalUsage(now=lambda: 0.0), Token("alice", LIMITS, b"")
        async with AsyncExitStack() as held:
            for _ in range(2):
                await held.enter_async_context(usage.hold(token, "session"))
            with pytest.raises(Busy):
                await held.enter_async_context(usage.hold(token, "session"))
        with pytest.raises(OSError):
            async with usage.hold(token, "session"):
                raise OSError
        async with usage.hold(token, "session"), usage.hold(token, "session"):
            pass

    anyio.run(scenario)


@pytest.mark.parametrize("grace_s", [24, 48, 60, 100, 240])
def test_a_token_holds_no_more_worlds_by_losing_sockets_than_operators_are_told(grace_s):
    """Groups look every quarter of the grace. The bound is that of docs/operating.md."""
    most = 2 + 5 * math.ceil(1.25 * grace_s / 60)
    counts, sockets, lost, worlds = UsageCounts(), 0, [], []
    for now in range(600):
        with pytest.raises(Busy):
            while True:
                begin(counts, now)
                sockets += 1
        lost = [since for since in lost if now - since <= 1.25 * grace_s - 1]
        worlds.append(sockets + len(lost))
        if now % 60 == 0:  # all sockets of this minute, at once and one after the other
            while sockets:
                counts.end("alice", "session")
                lost.append(now)
                sockets -= 1
                try:
                    begin(counts, now)
                    sockets += 1
                except Busy:
                    break
    assert most - 2 <= max(worlds) <= most
