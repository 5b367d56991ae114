import time

import anyio

from transport.event_loop_lag import EventLoopLag, EventLoopLagStats


def test_a_blocked_loop_shows_as_lag():
    async def scenario():
        lag = EventLoopLag()
        assert lag.stats() is None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lag.run)
            await anyio.sleep(0.05)
            time.sleep(0.1)  # blocks the loop
            await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()
        return lag.stats()

    assert anyio.run(scenario).max > 50


def test_percentiles_are_samples():
    lag = EventLoopLag()
    lag._samples_s.extend(i / 1000 for i in range(1, 101))
    assert lag.stats() == EventLoopLagStats(p50=50.0, p99=99.0, max=100.0)
