"""`serve deploy` of a changed config while a client walks."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec import msgpack
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed

from benchmarks.http_answer import answer_to
from benchmarks.local_server import local_server, wait_until_ready
from transport.client import Reconnected, connect

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("serve")]

REPLICAS = ("ServeReplica:lingbot:Transport", "ServeReplica:lingbot:WorldGroup", "ray::WorldRank")


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch:
        # The time after which Serve reports that it finds no node for a replica
        patch.setenv("RAY_SERVE_SLOW_STARTUP_WARNING_S", "5")
        with local_server() as running:
            yield running


def deploy(server, change):
    """Change the server's config file and deploy it as an operator does."""
    path = server.folder / "serve_config.yaml"
    config = msgspec.yaml.decode(path.read_bytes())
    change(config["applications"][0])
    path.write_bytes(msgspec.yaml.encode(config))
    serve = Path(sys.executable).with_name("serve")
    command = [serve, "deploy", path, "--address", dashboard_of(server)]
    subprocess.run(command, check=True, timeout=60)


def dashboard_of(server):
    return re.search(r"http://127\.0\.0\.1:\d+", server.log.read_text())[0]


def health_of(server):
    return msgspec.json.decode(answer_to(f"{server.http}/health").body)["status"]


def processes(server):
    return {name: server.descendants(name) for name in REPLICAS}


async def walk_until_the_end(socket):
    """Acknowledge every chunk. Returns the last message."""
    last = None
    with pytest.raises(ConnectionClosed):
        while True:
            last = msgpack.decode(await socket.recv())
            if last["type"] == "chunk_stats":
                ack = {"type": "ack", "chunk_index": last["chunk_index"]}
                await socket.send(msgpack.encode(ack))
    return last


def test_changed_limits_replace_no_process_and_hold_for_new_sockets(server):
    def one_socket(application):
        for deployment in application["deployments"]:
            deployment["autoscaling_config"] |= {"max_replicas": 3, "target_ongoing_requests": 5}
            deployment["graceful_shutdown_timeout_s"] = 4000
            deployment["max_queued_requests"] = 500
            deployment["user_config"] = {
                "Transport": {"limits": {"max_sockets": 1}},
                "WorldGroup": {"group": {"pace": "shared"}},
            }[deployment["name"]]

    async def scenario():
        before = processes(server)
        async with connect(server.ws) as walker:
            chunks = walker.chunks()
            await anext(chunks)
            await asyncio.to_thread(deploy, server, one_socket)
            while not await is_refused(server):
                assert (await anext(chunks)).frames.shape[0] == 12
            for _ in range(3):
                await anext(chunks)
        assert processes(server) == before

    asyncio.run(asyncio.wait_for(scenario(), 120))


async def is_refused(server):
    """True if a second socket is one too many."""
    early = {"type": "event", "kind": "prompt", "payload": "before the init"}
    async with open_socket(server.ws) as socket:
        try:
            await socket.send(msgpack.encode(early))
            return msgpack.decode(await socket.recv())["code"] == "busy"
        except ConnectionClosed as closed:
            return closed.rcvd.code == 1013


def test_resources_that_no_node_has_are_told_until_another_config_is_deployed(server):
    def bundle_of(num_cpus):
        def change(application):
            transport, group = application["deployments"]
            transport.pop("user_config", None)  # one socket is too few here
            group["placement_group_bundles"] = [{"CPU": num_cpus}]
            group["max_queued_requests"] = 500 + num_cpus  # Ray sees no change of the bundles alone

        return change

    async def last_message():
        async with open_socket(server.ws, max_size=None) as socket:
            await socket.send(msgpack.encode({"type": "init", "extensions": True}))
            return await walk_until_the_end(socket), socket.close_code

    async def scenario():
        await asyncio.to_thread(deploy, server, bundle_of(200))
        while await asyncio.to_thread(health_of, server) != "failed":
            await asyncio.sleep(0.5)
        error, close_code = await last_message()
        assert (error["type"], error["code"], close_code) == ("error", "internal", 1011)
        assert error["content"].startswith(
            "the world failed to start: no node can hold a replica of WorldGroup: it asks for 200 "
            "CPU, and there are nodes with "
        )
        await asyncio.to_thread(deploy, server, bundle_of(1))
        await asyncio.to_thread(wait_until_ready, server)
        async with connect(server.ws) as client:
            async for chunk in client.chunks():
                assert chunk.frames.shape[0] == 9
                break

    asyncio.run(asyncio.wait_for(scenario(), 180))


def test_changed_args_replace_all_processes_and_the_walkers_world_goes_on(server):
    def smaller_cache(application):
        application["args"]["camera_cache_bytes"] = 1_000_000

    async def scenario():
        before, indices, news = processes(server), [], []

        def is_replaced():
            now = processes(server)
            return not any(set(now[name]) & set(before[name]) for name in REPLICAS)

        async with connect(server.ws, on_news=news.append) as walker:
            async for chunk in walker.chunks():
                indices.append(chunk.world_index)
                if len(indices) == 3:
                    await asyncio.to_thread(deploy, server, smaller_cache)
                if len(indices) <= 6 or Reconnected not in map(type, news):
                    continue  # the last chunks of the old socket may come after its transport's end
                if await asyncio.to_thread(is_replaced):
                    break
        assert indices == list(range(len(indices)))

    asyncio.run(asyncio.wait_for(scenario(), 180))
