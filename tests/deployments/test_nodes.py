"""Groups on nodes of their own, which Ray's autoscaler starts for a user and stops afterwards."""

import asyncio
import tempfile
import time
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks.dashboard import APPLICATIONS
from benchmarks.faults import Walk, walk
from benchmarks.local_cluster import local_cluster
from benchmarks.local_server import LocalServer, edit_config, free_port, wait_until_ready
from benchmarks.tiny_world import write_tiny_world
from transport.client import Reconnected
from transport.wire.messages import Moved

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(900),
]

NUM_CHUNKS_ALONE = 40  # half a minute: longer than Serve waits before it stops a group
CHUNK_S = 12 / 16  # frames of a chunk, over those of a second
START_TIMEOUT_S = 240  # a start takes half a minute where nothing else runs
STORE = {"object_store_memory": 100 * 2**20}
NODE_TYPES = {
    "transports": {
        "resources": {"CPU": 1, "transport": 1, **STORE},
        "node_config": {},
        "min_workers": 0,
        "max_workers": 1,
    },
    "worlds": {
        "resources": {"CPU": 1, "GPU": 1, **STORE},
        "node_config": {},
        "min_workers": 0,
        "max_workers": 2,
    },
}


def two_groups(args, port):
    """The shipped config on these nodes, with one or two groups of one session each."""
    args = args | {"group": {"max_sessions": 1}, "queue_timeout_s": START_TIMEOUT_S}
    config = msgspec.yaml.decode(edit_config(args, num_ranks=1, port=port))
    config["proxy_location"] = "HeadOnly"  # all nodes share one address
    deployments = {d["name"]: d for d in config["applications"][0]["deployments"]}
    for deployment in deployments.values():
        deployment.pop("num_replicas", None)
        deployment.pop("autoscaling_config", None)
        deployment["graceful_shutdown_timeout_s"] = 600  # the group that Serve stops may be in use
    transport, group = deployments["Transport"], deployments["WorldGroup"]
    transport["ray_actor_options"] = {"num_cpus": 1, "resources": {"transport": 1}}
    group["max_ongoing_requests"] = 100  # the group's own limit is what counts
    group["placement_group_bundles"] = [{"CPU": 1, "GPU": 1}]
    group["autoscaling_config"] = {
        "min_replicas": 1,
        "max_replicas": 2,
        "target_ongoing_requests": 1,
        "upscale_delay_s": 1,
        "downscale_delay_s": 4,
        "metrics_interval_s": 1,
        "look_back_period_s": 2,
    }
    return config


@pytest.fixture(scope="module")
def cluster():
    with local_cluster(NODE_TYPES, idle_timeout_s=10) as running:
        yield running


@pytest.fixture(scope="module")
def server(cluster):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        port = free_port()
        cluster.ask(APPLICATIONS, put=two_groups(write_tiny_world(Path(folder)), port))
        running = LocalServer(f"127.0.0.1:{port}", cluster.process, cluster.folder)
        wait_until_ready(running, timeout_s=START_TIMEOUT_S)
        yield running


@asynccontextmanager
async def walker(server):
    """A client that walks meanwhile; its observations."""
    seen = Walk()
    walking = asyncio.create_task(walk(server, seen))
    try:
        yield seen
        assert not walking.done(), seen
    finally:
        walking.cancel()
        await asyncio.wait([walking])  # until its socket is closed


async def until(condition, *, timeout_s=START_TIMEOUT_S):
    async with asyncio.timeout(timeout_s):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.2)


@pytest.fixture(scope="module")
def story(cluster, server):
    """Two users on a cluster for one: nodes and actors before, during and after the second one."""

    def look():
        names = ("Transport", "WorldGroup", "WorldRank")
        return {"nodes": cluster.nodes()} | {name: cluster.nodes_of(name) for name in names}

    async def play():
        async with walker(server) as first:
            await until(lambda: len(first.arrived_s) > 4)
            before = await asyncio.to_thread(look)
            async with walker(server) as second:
                began_s = time.monotonic()
                await until(lambda: len(second.arrived_s) > 8)
                during = await asyncio.to_thread(look)
            num_chunks = len(first.arrived_s)  # Serve stops one of both groups meanwhile
            await until(lambda: len(first.arrived_s) > num_chunks + NUM_CHUNKS_ALONE)
        await until(lambda: len(cluster.nodes()) == len(before["nodes"]))
        after = await asyncio.to_thread(look)
        print(f"the second user's first chunk after {second.arrived_s[0] - began_s:.1f} s")
        return before, during, after, first, second

    return asyncio.run(play())


@pytest.fixture(scope="module")
def node_lost(cluster, server, story):
    """A walk whose group's node is lost: the walker's observations, and the group's nodes."""

    async def play():
        async with walker(server) as seen:
            await until(lambda: len(seen.arrived_s) > 4)
            before = await asyncio.to_thread(cluster.nodes_of, "WorldRank")
            lost_s = time.monotonic()
            await asyncio.to_thread(cluster.kill_node, *before)
            await until(lambda: Moved in seen.news_s)
            num_chunks = len(seen.arrived_s)
            await until(lambda: len(seen.arrived_s) > num_chunks + 8)
            after = await asyncio.to_thread(cluster.nodes_of, "WorldRank")
        print(f"the world has moved after {seen.news_s[Moved] - lost_s:.1f} s")
        return seen, before, after

    return asyncio.run(play())


def test_a_transport_and_each_group_have_nodes_of_their_own(story):
    before, during, after, *_ = story
    for seen in (before, during, after):
        homes = seen["Transport"] + seen["WorldRank"]
        assert len(set(homes)) == len(homes)
        assert set(homes) <= seen["nodes"].keys()
        assert all("transport" in seen["nodes"][node] for node in seen["Transport"])
        assert all("GPU" in seen["nodes"][node] for node in seen["WorldRank"])
        assert sorted(seen["WorldGroup"]) == sorted(seen["WorldRank"])


def test_a_second_user_brings_up_a_group_on_a_new_node(story):
    before, during, *_ = story
    assert (len(before["WorldRank"]), len(during["WorldRank"])) == (1, 2)
    (added,) = during["nodes"].keys() - before["nodes"].keys()
    assert set(during["WorldRank"]) == {*before["WorldRank"], added}


def test_a_node_goes_when_they_leave(story):
    """Serve may stop the group of the user that stays. Its node goes when that user leaves, too."""
    before, during, after, *_ = story
    assert len(after["nodes"]) == len(before["nodes"]) < len(during["nodes"])
    assert len(after["WorldRank"]) == 1


def test_the_first_users_frames_keep_their_pace_while_nodes_start(story):
    """The start of a raylet may take all of a machine's cores for a moment."""
    *_, first, second = story
    for seen in (first, second):
        gaps_s = [after - before for before, after in pairwise(seen.arrived_s)]
        print(f"{len(gaps_s)} chunks, longest gap {max(gaps_s):.2f} s")
        assert np.percentile(gaps_s, 95) < 2 * CHUNK_S and max(gaps_s) < 10, gaps_s


def test_a_world_whose_node_is_lost_goes_on_on_another(node_lost):
    seen, before, after = node_lost
    assert seen.error is None and Reconnected not in seen.news_s
    assert seen.indices == list(range(len(seen.indices)))
    assert len(before) == 1 and not set(before) & set(after)
