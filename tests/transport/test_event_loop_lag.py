import time

import anyio

from transport.event_loop_lag import EventLoopLag, EventLoopLagStats


def test_a_blocked_loop_is_seen():
    async def scenario():
        lag = EventLoopLag()
        assert lag.figures() is None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lag.run)
            await anyio.sleep(0.05)
            time.sleep(0.1)  # what nobody should do
            await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()
        return lag.figures()

    assert anyio.run(scenario).max > 50


def test_percentiles_are_samples():
    lag = EventLoopLag()
    lag._samples.extend(i / 1000 for i in range(1, 101))
    assert lag.figures() == EventLoopLagStats(p50=50.0, p99=99.0, max=100.0)
