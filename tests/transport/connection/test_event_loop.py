"""The event loop stays responsive with every codec and many clients."""

import json
import math
import threading
import urllib.request

import numpy as np
import pytest

from tests.waiting import TIMEOUT_S

NUM_CLIENTS = 8
# Each of eight clients gets a chunk of WebP, which takes 150 to 200 ms to encode. The clients share
# this process: `benchmarks.transport` measures without them.
MAX_LAG_MS = 250
NUM_TRIES = 3  # a try has at most 100 samples, so its p99 is the largest, and one hiccup spoils it

pytestmark = pytest.mark.alone


def measure_lag_ms(world, listen, dial_raw, encoding):
    """The p99 of the lag while all clients are streaming."""
    with listen(world) as port:
        enough = threading.Semaphore(0)

        def walk():
            init = {"extensions": True, "realtime_output_format": encoding, "fps": 16}
            init |= {"realtime_output_pacing": True}
            with dial_raw(port, max_chunks=3, **init) as client:
                for _ in client.chunks():
                    enough.release()

        clients = [threading.Thread(target=walk) for _ in range(NUM_CLIENTS)]
        for client in clients:
            client.start()
        for _ in range(NUM_CLIENTS * 2):
            assert enough.acquire(timeout=TIMEOUT_S)
        health = f"http://127.0.0.1:{port}/health"
        with urllib.request.urlopen(health, timeout=TIMEOUT_S) as answer:
            lag = json.load(answer)["loop_lag_ms"]
        for client in clients:
            client.join()
    return lag["p99"]


@pytest.mark.parametrize("encoding", ["raw", "jpeg", "webp", "h264", "delta-zstd"])
def test_the_loop_has_little_lag_while_chunks_are_encoded(make_world, listen, dial_raw, encoding):
    world = make_world(size=(832, 480))
    texture = np.random.default_rng(0).integers(0, 64, (12, 480, 832, 3), np.uint8)
    world.paint = lambda shape, index: texture[: shape[0]]  # as costly as a frame of a world
    lags_ms = []
    while min(lags_ms, default=math.inf) >= MAX_LAG_MS and len(lags_ms) < NUM_TRIES:
        lags_ms.append(measure_lag_ms(world, listen, dial_raw, encoding))
    assert min(lags_ms) < MAX_LAG_MS, lags_ms
