import asyncio

import pytest

from transport.gym.event_loop import EventLoop


async def answer(value, *, after=0.0):
    await asyncio.sleep(after)
    if isinstance(value, Exception):
        raise value
    return value


def test_a_blocking_caller_gets_results_and_errors():
    loop = EventLoop()
    assert loop.run(answer(3)) == 3
    assert loop.run_all(answer(number) for number in range(3)) == [0, 1, 2]
    with pytest.raises(ValueError, match="no"):
        loop.run(answer(ValueError("no")))
    loop.close()


def test_all_end_before_the_first_error_is_raised():
    loop, ended = EventLoop(), []

    async def note(value):
        await answer(None, after=0.02)
        ended.append(value)

    with pytest.raises(ValueError, match="no"):
        loop.run_all([answer(ValueError("no")), note(1)])
    assert ended == [1]
    loop.close()


def test_it_closes_twice_and_runs_nothing_after_that():
    loop, ended = EventLoop(), []

    async def note():
        ended.append(1)

    loop.close([note()])
    loop.close([note()])
    assert ended == [1]
    with pytest.raises(RuntimeError, match="the environment is closed"):
        loop.run(note())
