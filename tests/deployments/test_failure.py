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

from benchmarks.dashboard import APPLICATIONS, ask_dashboard, placement_groups
from benchmarks.local_server import wait_until_ready
from benchmarks.machine import shared_memory
from tests.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("pair")]

RANK = "ray::WorldRank"


def find_rank(server, number):
    """The process id of a rank, from the line that it logs once it has loaded."""

    def pids():
        alive = server.descendants(RANK)
        loaded = rf"WorldRank pid=(\d+)\).*rank {number} of 2 loaded"
        return set(map(int, re.findall(loaded, server.log.read_text()))) & set(alive)

    (pid,) = wait_until(pids, every_s=0.1)
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


async def stream_on(server, on_chunk, *, num_chunks):
    """Stream without pacing.

    Returns the index in its world of each chunk, and the messages between with their times.
    """
    init = {
        "type": "init",
        "extensions": True,
        "realtime_output_pacing": False,
        "realtime_output_format": "jpeg",
        "num_inference_steps": 1,  # the frames are not looked at
    }
    indices, messages = [], []
    async with open_socket(server.ws, max_size=None) as socket:
        await socket.send(msgpack.encode(init))
        while len(indices) < num_chunks:
            message = msgpack.decode(await socket.recv())
            if message["type"].startswith("frame_batch"):
                indices += [message["world_chunk_index"]] * message["is_final_frame_batch"]
                if message["type"] == "frame_batch_header":
                    await socket.recv()
            elif message["type"] == "chunk_stats":
                ack = {"type": "ack", "chunk_index": message["chunk_index"]}
                await socket.send(msgpack.encode(ack))
                on_chunk(message["chunk_index"])
            else:
                messages.append((time.monotonic(), message))
        return indices, messages


@pytest.mark.parametrize(
    "victim, blow",
    [
        pytest.param(partial(find_rank, number=0), signal.SIGKILL, id="kill rank 0"),
        pytest.param(partial(find_rank, number=1), signal.SIGKILL, id="kill rank 1"),
        pytest.param(find_replica, signal.SIGKILL, id="kill the replica"),
        pytest.param(partial(find_rank, number=0), signal.SIGSTOP, id="hang rank 0"),
        pytest.param(partial(find_rank, number=1), signal.SIGSTOP, id="hang rank 1"),
    ],
)
def test_the_world_of_a_group_that_breaks_in_a_step_goes_on_in_the_next_one_and_nothing_is_left(
    pair, victim, blow
):
    wait_until_ready(pair)
    memory, start = shared_memory(), len(pair.log.read_text())
    ranks = set(pair.descendants(RANK))
    process, struck = victim(pair), []

    def strike(chunk_index):
        if chunk_index == 3:  # the next step of an unpaced client has started by then
            struck.append(time.monotonic())
            os.kill(process, blow)

    async def scenario():
        indices, messages = await stream_on(pair, strike, num_chunks=8)
        assert indices == list(range(8))
        types = [message["type"] for at, message in messages if at > struck[0]]
        types = [kind for kind in types if kind != "paced"]  # a busy machine may send it
        # It is in a line once the next group's process runs, and its ranks do not yet.
        assert types[0] in ("starting", "queued") and types[-1] == "moved"
        while ranks & set(pair.descendants(RANK)):
            await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(scenario(), 300))
    assert len(pair.descendants(RANK)) == 2
    *removed, group = sorted(placement_groups(pair), key=lambda state: state == "CREATED")
    assert group == "CREATED" and set(removed) == {"REMOVED"}
    # Another cluster's segment may be there before its processes map it.
    wait_until(lambda: not leaked_memory(pair, memory), timeout_s=30, every_s=0.5)

    def has_timed_out():
        return "did not answer or finish a step" in pair.log.read_text()[start:]

    if blow is signal.SIGSTOP:
        wait_until(has_timed_out, every_s=0.5)
    else:  # a death is noticed by itself, before a step times out
        assert not has_timed_out()


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
        wait_until(lambda: reason in str(ask_dashboard(pair, APPLICATIONS)), every_s=0.5)
        wait_until(lambda: reason in pair.log.read_text(), every_s=0.5)
    finally:
        ask_dashboard(pair, APPLICATIONS, put=config)
    wait_until(
        lambda: "broken" not in ask_dashboard(pair, APPLICATIONS)["applications"], every_s=0.5
    )
