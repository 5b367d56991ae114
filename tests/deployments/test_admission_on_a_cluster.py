"""Clients that wait for a place, on a real cluster: in one line, and shared out over groups."""

import asyncio
import os
import re
import signal
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import msgspec
import pytest
from msgspec import msgpack
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed

from benchmarks.dashboard import APPLICATIONS, ask_dashboard
from benchmarks.local_server import (
    edit_config,
    free_port,
    start_server,
    stop_server,
    wait_until_ready,
)
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("serve"),
]

RANK, TRANSPORT = "ray::WorldRank", "ServeReplica:lingbot:Transport"
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
    """Change the server's config file and deploy it."""
    path = server.folder / "serve_config.yaml"
    config = msgspec.yaml.decode(path.read_bytes())
    change(config["applications"][0])
    path.write_bytes(msgspec.yaml.encode(config))
    ask_dashboard(server, APPLICATIONS, put=config)


class Client:
    """A socket whose messages are read and acknowledged as they come."""

    def __init__(self, socket):
        self.socket, self.messages = socket, []
        self.reading = asyncio.create_task(self.read())

    async def read(self):
        with suppress(ConnectionClosed):
            async for data in self.socket:
                try:
                    message = msgpack.decode(data)
                except (ValueError, msgspec.DecodeError):
                    continue  # a bare payload
                if isinstance(message, dict):
                    self.messages.append(message)
                    if message.get("type") == "chunk_stats":
                        ack = {"type": "ack", "chunk_index": message["chunk_index"]}
                        with suppress(ConnectionClosed):  # the error before it is still to be read
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

    def first(self, type_):
        return next(one for one in self.messages if one["type"] == type_)


async def join(stack, server):
    socket = await open_socket(server.ws, max_size=None)
    stack.callback(socket.transport.abort)
    client = Client(socket)
    stack.callback(client.reading.cancel)
    await socket.send(msgpack.encode(INIT))
    return client


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario(), 280))


def share(application):
    deployment_of(application, "WorldGroup")["user_config"] = {"group": {"pace": "shared"}}


def test_clients_of_all_transports_wait_in_one_line_and_limits_change_without_a_restart(server):
    async def scenario():
        async with AsyncExitStack() as stack:
            walker = await join(stack, server)
            await walker.until("session")
            others = []
            for position in range(1, 6):
                others.append(await join(stack, server))
                while others[-1].position != position:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(6)  # they have been asked to ask again
            while [client.position for client in others] != [1, 2, 3, 4, 5]:  # one may be late
                await asyncio.sleep(0.05)
            left = time.monotonic()
            walker.socket.transport.abort()
            await others[0].until("session")
            assert time.monotonic() - left < 20  # a lease that nobody ends expires after 30 s
            while [client.position for client in others[1:]] != [1, 2, 3, 4]:
                await asyncio.sleep(0.05)
            before = server.descendants(RANK)
            await asyncio.to_thread(deploy, server, share)
            for client in others:
                await client.until("chunk_stats")
            assert server.descendants(RANK) == before
            assert not any("error" in client.types() for client in others)

    run(scenario)
    opened = r"Transport pid=(\d+)\)\S* .*session_log -- session \w+ opened"
    wait_until(lambda: len(set(re.findall(opened, server.log.read_text()))) == 2)


def test_sessions_are_shared_out_over_the_groups(server):
    def two_groups(application):
        share(application)
        set_groups(application, 2)

    async def open_four():
        """The transport and the rank of each, and the numbers of the groups' sessions then."""
        async with AsyncExitStack() as stack:
            clients = []
            for _ in range(4):
                clients.append(await join(stack, server))
                await clients[-1].until("session")
        names = [client.first("session")["session_id"] for client in clients]
        found = await asyncio.to_thread(wait_until, lambda: lines_of(server, names), every_s=0.1)
        homes = {(transport[1], rank[1]) for transport, rank, _ in found}
        return homes, sorted(rank[2] for _, rank, _ in found)

    async def scenario():
        await asyncio.to_thread(deploy, server, two_groups)
        homes = set()
        while len(homes) < 4:  # until both transports know both groups
            homes |= (await open_four())[0]
        tries = [(await open_four())[1] for _ in range(3)]
        # A group that does not answer for a second gets no session.
        assert tries.count(["1", "1", "2", "2"]) >= 2, tries

    run(scenario)


def lines_of(server, names):
    """The lines of transports and ranks about these sessions; False before all have ended."""
    log = server.log.read_text()
    found = [
        (
            re.search(rf"Transport pid=(\d+)\)\S* .*session {name} opened", log),
            re.search(rf"WorldRank pid=(\d+)\)\S* .*session {name} opened, (\d) in all", log),
            re.search(rf"WorldRank .*session {name} closed", log),
        )
        for name in names
    ]
    return all(all(lines) for lines in found) and found


def test_a_client_that_waits_for_a_group_that_dies_waits_behind_the_world_that_was_there(server):
    def one_group_for_one(application):
        """One transport asks for both clients: neither is late."""
        set_groups(application, 1)
        deployment_of(application, "Transport")["num_replicas"] = 1
        deployment_of(application, "WorldGroup")["user_config"] = {"group": {"max_sessions": 1}}

    async def scenario():
        await asyncio.to_thread(deploy, server, one_group_for_one)
        while any(len(server.descendants(name)) != 1 for name in (RANK, TRANSPORT)):
            await asyncio.sleep(0.2)
        async with AsyncExitStack() as stack:
            walker = await join(stack, server)
            await walker.until("session")
            waiting = await join(stack, server)
            await waiting.until("queued")
            (rank,) = server.descendants(RANK)
            os.kill(rank, signal.SIGKILL)
            await walker.until("moved")
            assert "session" not in waiting.types()
            walker.socket.transport.abort()
            await waiting.until("session")
            assert "starting" in waiting.types()
            assert not {"error"} & {*waiting.types(), *walker.types()}

    run(scenario)
