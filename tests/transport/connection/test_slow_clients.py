"""The cost of clients that read too little, too late or nothing, on real sockets."""

import gc
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from tests.waiting import TIMEOUT_S, wait_until

SIZE = (832, 480)
CHUNK_BYTES = 12 * 832 * 480 * 3
# Two in flight, one in the slot, and one in generation. A thread holds one more when it ends.
MAX_CHUNKS = 5


@pytest.fixture
def big(make_world):
    """A world with chunks of 14.4 MB, which counts the bytes that are still referenced."""
    world = make_world(size=SIZE)
    world.alive = world.most_alive = 0
    open_world = world.open

    def born(frames):
        world.alive += frames.nbytes
        world.most_alive = max(world.most_alive, world.alive)
        weakref.finalize(frames, died, frames.nbytes)
        return frames

    def died(num_bytes):
        world.alive -= num_bytes

    async def open_counted(spec, image, *, on_wait):
        session = await open_world(spec, image, on_wait=on_wait)
        step = session.step

        async def step_counted(actions, **options):
            pending = await step(actions, **options)
            # The count ends with the array, which a view would outlive, so the frames are a copy.
            pending.frames = born(np.array(pending.frames))
            return pending

        session.step = step_counted
        return session

    world.open = open_counted
    return world


def stays(condition, seconds=1.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition()
        time.sleep(0.02)


def watch(dial_raw, port, seen, stop):
    """A fast client, whose chunks must not be delayed by others."""
    with dial_raw(port, extensions=True, max_chunks=10_000) as client:
        for message in client.chunks():
            seen.append((message["chunk_index"], time.monotonic()))
            if stop.is_set():
                return


def test_a_client_that_reads_nothing_stops_its_world_after_two_chunks(big, listen, dial_raw):
    with listen(big) as port, dial_raw(port, extensions=True):
        wait_until(lambda: len(big.steps) == 2)
        stays(lambda: len(big.steps) == 2)
        assert big.most_alive <= MAX_CHUNKS * CHUNK_BYTES


def test_a_client_that_reads_nothing_is_closed(big, listen, dial_raw, monkeypatch):
    monkeypatch.setattr("transport.connection.close.CLOSE_TIMEOUT_S", TIMEOUT_S)
    with listen(big, ack_timeout_s=1.0) as port, dial_raw(port, extensions=True) as client:
        wait_until(lambda: big.steps and big.live == big.detached)
        client.socket.settimeout(TIMEOUT_S)
        while client.read() is not None:
            pass
        assert client.closed_with.reason == "a message could not be sent within 1 s"


def test_a_client_without_acks_that_reads_nothing_delays_itself(big, listen, dial_raw):
    """Only TCP limits it, as there is no proxy in between."""
    with listen(big) as port, dial_raw(port):
        wait_until(lambda: len(big.steps) >= 2)
        most = len(big.steps) + 2
        stays(lambda: len(big.steps) <= most, seconds=2.0)
        assert big.most_alive <= MAX_CHUNKS * CHUNK_BYTES


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_a_client_at_a_megabit_gets_every_chunk_and_costs_two(
    make_world, listen, encoding, dial_raw
):
    """The frames are small, so that some arrive: a chunk of 258 kB takes two seconds."""
    world = make_world(size=(112, 64))
    with listen(world) as port:
        init = {"extensions": True, "realtime_output_format": encoding, "max_chunks": 4}
        with dial_raw(port, **init) as client:
            for expected, message in enumerate(client.chunks(bytes_per_s=125_000)):
                assert message["chunk_index"] == expected
                assert len(world.steps) <= expected + 3, "more than two ahead of its acks"
    assert expected == 3


def test_a_client_at_a_megabit_in_latest_mode_skips_whole_chunks(make_world, listen, dial_raw):
    world = make_world(size=(112, 64))
    with listen(world) as port:
        init = {"extensions": True, "realtime_delivery": "latest"}
        with dial_raw(port, **init) as client:
            seen = []
            for message in client.chunks(bytes_per_s=125_000):
                seen.append((message["chunk_index"], message.get("dropped_frames", 0)))
                if len(seen) == 5:
                    break
    indices = [index for index, _ in seen]
    assert indices == sorted(set(indices)) and indices[-1] > 4, "no chunk was skipped"
    # Two are in flight when the first is late. All chunks missing after that were dropped.
    missing = [index for index in range(indices[-1]) if index not in indices]
    assert seen[-1][1] == sum(12 if index else 9 for index in missing)


def test_latest_mode_is_bounded_for_a_client_that_reads_nothing(big, listen, dial_raw):
    with listen(big) as port, dial_raw(port, extensions=True, realtime_delivery="latest"):
        wait_until(lambda: len(big.steps) >= 8)  # generation continues at the media rate
        assert big.most_alive <= MAX_CHUNKS * CHUNK_BYTES


FROZEN = """
import asyncio, sys
from transport.client import connect
async def walk():
    async with connect(sys.argv[1], realtime_output_pacing=False) as client:
        async for chunk in client.chunks():
            print(chunk.index, flush=True)
asyncio.run(walk())
"""


def test_a_frozen_process_costs_two_chunks_and_delays_no_other_client(big, listen, dial_raw):
    with listen(big) as port:
        url = f"ws://127.0.0.1:{port}/v1/realtime_video/generate"
        command = [sys.executable, "-c", FROZEN, url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            while int(process.stdout.readline()) < 1:
                pass
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.5)  # for the acks on their way
            before = len(big.steps)
            seen, stop = [], threading.Event()
            watcher = threading.Thread(target=watch, args=[dial_raw, port, seen, stop])
            watcher.start()
            wait_until(lambda: len(seen) >= 5)
            stop.set()
            watcher.join()
            # All further steps but two are the fast client's, with at most three not yet seen.
            assert len(big.steps) - before <= len(seen) + 3 + 2
            assert big.most_alive <= 2 * MAX_CHUNKS * CHUNK_BYTES
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        wait_until(lambda: big.live == big.detached)  # the killed client may return
        gc.collect()  # tracebacks and the frames in them refer to each other
        wait_until(lambda: big.alive == 0)
