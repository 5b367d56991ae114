"""Clients that wait for a place, on a real cluster: in one line, and shared out over groups."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from msgspec import msgpack
from websockets.asyncio.client import connect as open_socket

from benchmarks.local_server import (
    edit_config,
    free_port,
    start_server,
    stop_server,
    wait_until_ready,
)

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("serve"),
]

INIT = {"type": "init", "prompt": "x", "extensions": True, "num_inference_steps": 1}


@pytest.fixture(scope="module")
def server():
    """A server with one group for one session, and two transports."""

    def two_transports(application):
        deployment_of(application, "Transport").pop("autoscaling_config", None)
        deployment_of(application, "Transport")["num_replicas"] = 2
        set_groups(application, 1)

    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        port = free_port()
        # A client whose socket is cut makes room at once.
        args = {"resume_grace_s": 0, "group": {"max_sessions": 1}}
        args |= {"dtype": "float32", "threads": 1}
        config = msgspec.yaml.decode(edit_config(args, num_ranks=1, port=port))
        two_transports(config["applications"][0])
        path = Path(folder) / "serve_config.yaml"
        path.write_bytes(msgspec.yaml.encode(config))
        server = start_server(path, f"127.0.0.1:{port}")
        try:
            wait_until_ready(server, timeout_s=400)
            yield server
        finally:
            stop_server(server)


def deployment_of(application, name):
    (deployment,) = (one for one in application["deployments"] if one["name"] == name)
    return deployment


def set_groups(application, number):
    group = deployment_of(application, "WorldGroup")
    group.pop("autoscaling_config", None)
    group |= {"num_replicas": number, "placement_group_bundles": [{"CPU": 1}]}


def deploy(server, change):
    """Change the server's config file and deploy it as an operator does."""
    path = server.folder / "serve_config.yaml"
    config = msgspec.yaml.decode(path.read_bytes())
    change(config["applications"][0])
    path.write_bytes(msgspec.yaml.encode(config))
    dashboard = re.search(r"http://127\.0\.0\.1:\d+", server.log.read_text())[0]
    command = [Path(sys.executable).with_name("serve"), "deploy", path, "--address", dashboard]
    subprocess.run(command, check=True, timeout=60)


class Client:
    """A socket whose messages are read and acknowledged as they come."""

    def __init__(self, socket):
        self.socket, self.messages = socket, []
        self.reading = asyncio.create_task(self.read())

    async def read(self):
        async for data in self.socket:
            try:
                message = msgpack.decode(data)
            except (ValueError, msgspec.DecodeError):
                continue  # a bare payload
            if isinstance(message, dict):
                self.messages.append(message)
                if message.get("type") == "chunk_stats":
                    ack = {"type": "ack", "chunk_index": message["chunk_index"]}
                    await self.socket.send(msgpack.encode(ack))

    def types(self):
        return [message["type"] for message in self.messages]

    @property
    def position(self):
        places = [one["position"] for one in self.messages if one["type"] == "queued"]
        return places[-1] if places else None

    async def until(self, type_):
        while type_ not in self.types():
            await asyncio.sleep(0.02)


async def join(stack, server):
    socket = await open_socket(server.ws, max_size=None)
    stack.callback(socket.transport.abort)
    client = Client(socket)
    stack.callback(client.reading.cancel)
    await socket.send(msgpack.encode(INIT))
    return client


async def time_of_chunks(client):
    """Seconds that the slowest of three chunks takes."""
    times = []
    for number in range(1, 5):
        while client.types().count("chunk_stats") < number:
            await asyncio.sleep(0.01)
        times.append(time.monotonic())
    return max(later - earlier for earlier, later in pairwise(times))


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario(), 280))


def share(application):
    deployment_of(application, "WorldGroup")["user_config"] = {"group": {"pace": "shared"}}


def test_clients_of_all_transports_wait_in_one_line_and_limits_change_without_a_restart(server):
    async def scenario():
        async with AsyncExitStack() as stack:
            asked = time.monotonic()
            walker = await join(stack, server)
            await walker.until("session")
            opening_s = time.monotonic() - asked
            chunk_s = await time_of_chunks(walker)
            others = []
            for position in range(1, 6):
                others.append(await join(stack, server))
                await others[-1].until("queued")
                assert others[-1].position == position
            await asyncio.sleep(6)  # they have been asked to ask again
            assert [client.position for client in others] == [1, 2, 3, 4, 5]
            left = time.monotonic()
            walker.socket.transport.abort()
            await others[0].until("session")
            assert time.monotonic() - left < 2 * opening_s + 3 * chunk_s  # on cores that others use
            while [client.position for client in others[1:]] != [1, 2, 3, 4]:
                await asyncio.sleep(0.05)
            before = server.descendants("ray::WorldRank")
            await asyncio.to_thread(deploy, server, share)
            for client in others:
                await client.until("chunk_stats")
            assert server.descendants("ray::WorldRank") == before
            assert not any("error" in client.types() for client in others)

    run(scenario)
    opened = r"Transport pid=(\d+)\)\S* .*session_log -- session \w+ opened"
    assert len(set(re.findall(opened, server.log.read_text()))) == 2


def test_sessions_are_shared_out_over_the_groups(server):
    def two_groups(application):
        share(application)
        set_groups(application, 2)

    async def scenario():
        warm = server.log.read_text().count("ranks are warm")
        await asyncio.to_thread(deploy, server, two_groups)
        while server.log.read_text().count("ranks are warm") == warm:
            await asyncio.sleep(0.2)
        await asyncio.sleep(2)  # until the transports know it
        start = len(server.log.read_text())
        async with AsyncExitStack() as stack:
            for _ in range(4):
                client = await join(stack, server)
                await client.until("session")
        opened: list[str] = []
        while len(opened) < 4:  # a line may come later than its session
            await asyncio.sleep(0.1)
            opened = re.findall(r"opened, (\d) in all", server.log.read_text()[start:])
        assert sorted(opened) == ["1", "1", "2", "2"]

    run(scenario)


def test_a_client_that_waits_for_a_group_that_dies_waits_behind_the_world_that_was_there(server):
    def one_group_for_one(application):
        set_groups(application, 1)
        deployment_of(application, "WorldGroup")["user_config"] = {"group": {"max_sessions": 1}}

    async def scenario():
        await asyncio.to_thread(deploy, server, one_group_for_one)
        while len(server.descendants("ray::WorldRank")) != 1:
            await asyncio.sleep(0.2)
        async with AsyncExitStack() as stack:
            walker = await join(stack, server)
            await walker.until("session")
            waiting = await join(stack, server)
            await waiting.until("queued")
            (rank,) = server.descendants("ray::WorldRank")
            os.kill(rank, signal.SIGKILL)
            await walker.until("moved")
            assert "session" not in waiting.types()
            walker.socket.transport.abort()
            await waiting.until("session")
            assert "starting" in waiting.types()
            assert not {"error"} & {*waiting.types(), *walker.types()}

    run(scenario)
