"""Clients that wait for a place, on a real cluster: in one line, and shared out over groups."""

import asyncio
import re
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack, contextmanager
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


@contextmanager
def server_with(args, **num_replicas):
    """A server of the shipped config with other numbers of replicas."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        port = free_port()
        config = msgspec.yaml.decode(edit_config(args, num_ranks=1, port=port))
        for deployment in config["applications"][0]["deployments"]:
            if number := num_replicas.get(deployment["name"]):
                deployment.pop("autoscaling_config", None)
                deployment["num_replicas"] = number
                deployment["placement_group_bundles"] = [{"CPU": 1}]
            if deployment["name"] == "Transport":
                deployment.pop("placement_group_bundles", None)
        path = Path(folder) / "serve_config.yaml"
        path.write_bytes(msgspec.yaml.encode(config))
        server = start_server(path, f"127.0.0.1:{port}")
        try:
            wait_until_ready(server)
            yield server
        finally:
            stop_server(server)


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


def run(scenario, timeout_s=240):
    asyncio.run(asyncio.wait_for(scenario(), timeout_s))


def test_clients_of_all_transports_wait_in_one_line_and_limits_change_without_a_restart():
    def share(application):
        (group,) = (d for d in application["deployments"] if d["name"] == "WorldGroup")
        group["user_config"] = {"group": {"pace": "shared"}}

    with server_with({"group": {"max_sessions": 1}}, Transport=2) as server:

        async def scenario():
            async with AsyncExitStack() as stack:
                walker = await join(stack, server)
                await walker.until("chunk_stats")
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
                assert time.monotonic() - left < 5  # generous: other tests share the cores
                while [client.position for client in others[1:]] != [1, 2, 3, 4]:
                    await asyncio.sleep(0.05)
                before = server.descendants("ray::WorldRank")
                await asyncio.to_thread(deploy, server, share)
                for client in others:
                    await client.until("chunk_stats")
                assert server.descendants("ray::WorldRank") == before
                assert not any("error" in client.types() for client in others)

        run(scenario)
        opened = r"Transport pid=(\d+)\)\S* .*connection -- session \w+ opened"
        assert len(set(re.findall(opened, server.log.read_text()))) == 2


def test_sessions_are_shared_out_over_the_groups():
    with server_with({"group": {"pace": "shared"}}, WorldGroup=2) as server:

        async def scenario():
            async with AsyncExitStack() as stack:
                for _ in range(4):
                    client = await join(stack, server)
                    await client.until("session")

        run(scenario)
        opened = re.findall(r"opened, (\d) in all", server.log.read_text())
        assert sorted(opened) == ["1", "1", "2", "2"]
