import os
import sys
import threading

import anyio
import pytest

from transport.worker_limits import NICENESS, CapacityLimits, num_cpus, run_in_worker


def test_a_call_runs_in_another_thread():
    async def scenario():
        return await run_in_worker(threading.get_ident, limiter=CapacityLimits().encode)

    assert anyio.run(scenario) != threading.get_ident()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_a_worker_has_a_lower_priority_than_the_event_loop():
    def priority():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    async def scenario():
        return [await run_in_worker(priority, limiter=CapacityLimits().encode) for _ in range(2)]

    before = priority()
    assert anyio.run(scenario) == [NICENESS, NICENESS]
    assert priority() == before


def test_each_kind_of_work_has_its_own_workers():
    """One call holds the only worker for images. A clip is encoded meanwhile."""

    async def scenario():
        capacity, release = CapacityLimits(), threading.Event()
        async with anyio.create_task_group() as tasks:

            async def decode():
                await run_in_worker(release.wait, limiter=capacity.decode_image)

            tasks.start_soon(decode)
            await anyio.wait_all_tasks_blocked()
            assert capacity.decode_image.available_tokens == 0
            await run_in_worker(release.set, limiter=capacity.clip)
        return int(capacity.encode.total_tokens)

    assert anyio.run(scenario) == num_cpus()
