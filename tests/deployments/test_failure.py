"""Failures in a group of two ranks, as its clients and the cluster see them."""

import asyncio
import copy
import os
import re
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import psutil
import pytest
from msgspec import msgpack
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed

from benchmarks.dashboard import APPLICATIONS, ask_dashboard, placement_groups
from benchmarks.local_server import wait_until_ready
from benchmarks.machine import shared_memory
from transport.client import connect

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("pair")]

STEP_TIMEOUT_S = 10  # of `pair`
DEATH_TIMEOUT_S = STEP_TIMEOUT_S / 2  # a death is noticed by itself, before a step times out
RANK = "ray::WorldRank"


def find_rank(server, number):
    """The process id of a rank, from the line that it logs once it has loaded."""
    alive = server.descendants(RANK)
    logged = re.findall(r"WorldRank pid=(\d+)\).*rank (\d) of 2 loaded", server.log.read_text())
    (pid,) = {int(pid) for pid, rank in logged if int(rank) == number and int(pid) in alive}
    return pid


def find_replica(server):
    (pid,) = server.descendants("ServeReplica:lingbot:WorldGroup")
    return pid


def leaked_memory(server, before):
    """Segments newer than `before` that no process outside the server's cluster has mapped."""
    leaked = shared_memory() - before
    ours = {process.pid for process in server.processes()}
    for process in psutil.process_iter() if leaked else ():
        with suppress(psutil.Error):  # it ended, or it belongs to another user
            if process.pid not in ours:
                leaked -= {Path(mapped.path).name for mapped in process.memory_maps()}
    return leaked


async def stream_until_the_end(server, on_chunk):
    """Stream without pacing. Returns the last message, the close code and the time of the close."""
    init = {
        "type": "init",
        "extensions": True,
        "realtime_output_pacing": False,
        "realtime_output_format": "jpeg",
        "num_inference_steps": 1,  # the frames are not looked at
    }
    last = None
    async with open_socket(server.ws, max_size=None) as socket:
        await socket.send(msgpack.encode(init))
        with pytest.raises(ConnectionClosed):
            while True:
                last = msgpack.decode(await socket.recv())
                if last["type"] == "chunk_stats":
                    ack = {"type": "ack", "chunk_index": last["chunk_index"]}
                    await socket.send(msgpack.encode(ack))
                    on_chunk(last["chunk_index"])
        return last, socket.close_code, time.monotonic()


@pytest.mark.parametrize(
    "victim, blow, timeout_s",
    [
        pytest.param(
            partial(find_rank, number=0), signal.SIGKILL, DEATH_TIMEOUT_S, id="kill rank 0"
        ),
        pytest.param(
            partial(find_rank, number=1),
            signal.SIGKILL,
            DEATH_TIMEOUT_S,
            id="kill rank 1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            find_replica,
            signal.SIGKILL,
            DEATH_TIMEOUT_S,
            id="kill the replica",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            partial(find_rank, number=0),
            signal.SIGSTOP,
            STEP_TIMEOUT_S + 1,
            id="hang rank 0",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            partial(find_rank, number=1),
            signal.SIGSTOP,
            STEP_TIMEOUT_S + 1,
            id="hang rank 1",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_group_that_breaks_in_a_step_closes_its_sessions_is_replaced_and_leaves_nothing(
    pair, victim, blow, timeout_s
):
    wait_until_ready(pair)
    memory = shared_memory()
    ranks = set(pair.descendants(RANK))
    process, struck = victim(pair), []

    def strike(chunk_index):
        if chunk_index == 3:  # the next step of an unpaced client has started by then
            struck.append(time.monotonic())
            os.kill(process, blow)

    async def scenario():
        last, close_code, ended = await stream_until_the_end(pair, strike)
        assert (last["type"], last["code"], close_code) == ("error", "world_lost", 1012)
        assert last["content"]
        assert struck, f"ended before it was struck: {last}"
        assert ended - struck[0] < timeout_s
        while ranks & set(pair.descendants(RANK)):
            await asyncio.sleep(0.1)
        await asyncio.to_thread(wait_until_ready, pair)
        async with connect(pair.ws) as client:
            async for chunk in client.chunks():
                assert chunk.frames.shape[0] == 9
                break

    asyncio.run(asyncio.wait_for(scenario(), 180))
    assert len(pair.descendants(RANK)) == 2
    *removed, group = sorted(placement_groups(pair), key=lambda state: state == "CREATED")
    assert group == "CREATED" and set(removed) == {"REMOVED"}
    assert leaked_memory(pair, memory) == set()


def test_a_group_that_cannot_start_shows_its_reason(pair):
    """Three ranks cannot share four heads. A second application of the same server tries to."""
    reason = "num_heads 4 must be divisible by the 3 ranks"
    config = msgspec.yaml.decode((pair.folder / "serve_config.yaml").read_bytes())
    (running,) = config["applications"]
    broken = copy.deepcopy(running) | {"name": "broken", "route_prefix": "/broken"}
    (group,) = (d for d in broken["deployments"] if d["name"] == "WorldGroup")
    group["placement_group_bundles"] = [{"CPU": 0.1}] * 3
    ask_dashboard(pair, APPLICATIONS, put=config | {"applications": [running, broken]})
    try:
        wait_for(lambda: reason in str(ask_dashboard(pair, APPLICATIONS)))
        assert reason in pair.log.read_text()
    finally:
        ask_dashboard(pair, APPLICATIONS, put=config)
    wait_for(lambda: "broken" not in ask_dashboard(pair, APPLICATIONS)["applications"])


def wait_for(condition):
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)
