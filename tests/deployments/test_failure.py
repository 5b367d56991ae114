"""What dies in a group of two ranks, and what its clients and the cluster see of it."""

import asyncio
import json
import os
import re
import signal
import time
import urllib.request
from contextlib import suppress

import pytest
from msgspec import msgpack
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed

from benchmarks.local_server import local_server, wait_until_ready
from transport.client import connect

pytestmark = pytest.mark.cluster

STEP_TIMEOUT_S = 10  # of `pair`


def rank(server, number):
    """The process of a rank, by what it logged when it had loaded."""
    alive = server.descendants("ray::WorldRank")
    logged = re.findall(r"WorldRank pid=(\d+)\).*rank (\d) of 2 loaded", server.log.read_text())
    (pid,) = {int(pid) for pid, which in logged if int(which) == number and int(pid) in alive}
    return pid


def replica(server):
    (pid,) = server.descendants("ServeReplica:lingbot:WorldGroup")
    return pid


def shared_memory():
    """Segments on this machine, but for those of a browser that other tests have open."""
    return {name for name in os.listdir("/dev/shm") if "chromium" not in name}


def dashboard(server, path):
    """What Ray's dashboard knows."""
    address = re.search(r"http://127\.0\.0\.1:\d+", server.log.read_text())
    with urllib.request.urlopen(f"{address[0]}{path}", timeout=30) as answer:
        return json.load(answer)


def placement_groups(server):
    """States of all that the cluster knows."""
    listed = dashboard(server, "/api/v0/placement_groups?limit=1000&detail=False")
    return [group["state"] for group in listed["data"]["result"]["result"]]


async def walk_until_the_end(server, on_chunk):
    """Play without a pause; the last message, the close code and when it came."""
    init = {
        "type": "init",
        "extensions": True,
        "realtime_output_pacing": False,
        "realtime_output_format": "jpeg",
        "num_inference_steps": 1,  # of what is shown nothing is asked
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
    "victim, blow, patience_s",
    [
        (lambda server: rank(server, 0), signal.SIGKILL, 1),
        (lambda server: rank(server, 1), signal.SIGKILL, 1),
        (replica, signal.SIGKILL, 1),
        (lambda server: rank(server, 0), signal.SIGSTOP, STEP_TIMEOUT_S + 1),
        (lambda server: rank(server, 1), signal.SIGSTOP, STEP_TIMEOUT_S + 1),
    ],
    ids=["kill rank 0", "kill rank 1", "kill the replica", "hang rank 0", "hang rank 1"],
)
def test_a_group_that_breaks_in_a_step_is_told_replaced_and_leaves_nothing(
    pair, victim, blow, patience_s
):
    wait_until_ready(pair)
    memory = shared_memory()
    ranks = set(pair.descendants("ray::WorldRank"))
    process, struck = victim(pair), []

    def strike(chunk_index):
        if chunk_index == 3:  # an unpaced client's next step has begun by then
            struck.append(time.monotonic())
            os.kill(process, blow)

    async def scenario():
        last, close_code, ended = await walk_until_the_end(pair, strike)
        assert (last["type"], last["code"], close_code) == ("error", "world_lost", 1012)
        assert last["content"]
        assert struck, f"ended before it was struck: {last}"
        assert ended - struck[0] < patience_s
        while ranks & set(pair.descendants("ray::WorldRank")):
            await asyncio.sleep(0.1)
        await asyncio.to_thread(wait_until_ready, pair)
        async with connect(pair.ws) as client:
            async for chunk in client.chunks():
                assert chunk.frames.shape[0] == 9
                break

    asyncio.run(asyncio.wait_for(scenario(), 180))
    assert len(pair.descendants("ray::WorldRank")) == 2
    *removed, group = sorted(placement_groups(pair), key=lambda state: state == "CREATED")
    assert group == "CREATED" and set(removed) == {"REMOVED"}
    assert shared_memory() <= memory


def test_a_group_that_cannot_start_says_why():
    """Three ranks cannot share four heads."""
    why = "num_heads 4 must be divisible by the 3 ranks"
    with local_server({"threads": 1}, num_ranks=3, wait=False) as server:
        deadline, status = time.monotonic() + 90, ""
        while why not in status:
            assert time.monotonic() < deadline, status
            time.sleep(0.5)
            with suppress(TypeError, OSError):  # it is not up yet
                status = str(dashboard(server, "/api/serve/applications/"))
        assert why in server.log.read_text()
