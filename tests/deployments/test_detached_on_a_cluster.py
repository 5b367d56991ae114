"""Sessions whose sockets are lost, on two groups and two transports of a real cluster."""

import asyncio
import os
import re
import signal
from contextlib import AsyncExitStack

import psutil
import pytest
from msgspec import msgpack
from websockets.asyncio.client import connect as open_socket

from benchmarks.dashboard import APPLICATIONS, ask_dashboard
from benchmarks.local_server import local_server
from tests.deployments.session_list import all_sessions
from tests.deployments.test_admission_on_a_cluster import (
    RANK,
    Client,
    deploy,
    deployment_of,
    set_groups,
)
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("serve"),
]

INIT = {"type": "init", "extensions": True}
WORLD = {"prompt": "x", "num_inference_steps": 1, "seed": 3}
GRACE_S = 45


def two_groups(application):
    deployment_of(application, "WorldGroup")["user_config"] = {"group": {"pace": "shared"}}
    set_groups(application, 2)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    token_file = tmp_path_factory.mktemp("operator") / "token"
    token_file.write_text("s3cret")
    args = {
        "dtype": "float32",
        "threads": 1,
        "resume_grace_s": GRACE_S,
        "operator_token_file": str(token_file),
    }
    with local_server(args, num_transports=2, change=two_groups, timeout_s=400) as running:
        yield running


@pytest.fixture(autouse=True)
def two_empty_groups(server):
    """Each test begins without sessions."""

    async def wait():
        await asyncio.to_thread(deploy, server, two_groups)
        while len(groups(server)) != 2:
            await asyncio.sleep(0.5)
        await until_states(server, [])

    run(wait)
    yield


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario(), 280))


async def list_sessions(server):
    """By id."""
    return {one["id"]: one for one in await asyncio.to_thread(all_sessions, server)}


def groups(server):
    """The process ids of the running groups' replicas, by group."""
    found = ask_dashboard(server, APPLICATIONS)["applications"]["lingbot"]["deployments"]
    replicas = found["WorldGroup"]["replicas"]
    return {one["replica_id"]: one["pid"] for one in replicas if one["state"] == "RUNNING"}


async def until_states(server, expected):
    """Returns the listed sessions once their states are these."""
    while True:
        found = await list_sessions(server)
        if sorted(one["state"] for one in found.values()) == expected:
            return found
        await asyncio.sleep(0.2)


async def join(stack, server, **init):
    socket = await open_socket(server.ws, max_size=None)
    stack.callback(socket.transport.abort)
    client = Client(socket)
    stack.callback(client.reading.cancel)
    await socket.send(msgpack.encode(INIT | init))
    return client


async def walking(stack, server, **init):
    """A client that has received a chunk."""
    client = await join(stack, server, **(init or WORLD))
    while "chunk_stats" not in client.types():
        assert "error" not in client.types(), client.messages
        await asyncio.sleep(0.02)
    return client


async def walking_in_both_groups(stack, server):
    """Two clients. A transport learns some time after the others that a group runs."""
    while True:
        clients = [await walking(stack, server) for _ in range(2)]
        if len({group_of(client) for client in clients}) == 2:
            return clients
        for client in clients:
            await client.socket.close()
        await until_states(server, [])


def cut(client):
    """End a socket without a closing handshake."""
    client.socket.transport.abort()


async def resumed(stack, server, client):
    """Another client that goes on with the world of this one."""
    token = client.first("session")["resume_token"]
    again = await walking(stack, server, resume=token)
    opened = again.first("session")
    assert opened["world_chunk_index"] > 0 and opened["seed"] == 3
    assert again.types().index("last_frame") == again.types().index("session") + 1
    return again


def group_of(client):
    return client.first("session")["resume_token"].split(".")[0]


def chunks_of(client):
    """The indices of its chunks in their world."""
    headers = [one for one in client.messages if one["type"] == "frame_batch_header"]
    return list(dict.fromkeys(one["world_chunk_index"] for one in headers))


def test_a_session_waits_for_its_client_and_is_there_once(server):
    async def scenario():
        async with AsyncExitStack() as stack:
            client = await walking(stack, server)
            cut(client)
            found = await until_states(server, ["detached"])
            ((name, session),) = found.items()
            assert session["transport"] is None
            again = await resumed(stack, server, client)
            assert list(await list_sessions(server)) == [name]
            first, then = chunks_of(client), chunks_of(again)
            assert then[0] >= first[-1] and again.first("session")["session_id"] == name
            await again.socket.close()
            await until_states(server, [])

    run(scenario)


def test_another_socket_takes_a_session_over_while_the_first_one_is_open(server):
    async def scenario():
        async with AsyncExitStack() as stack:
            client = await walking(stack, server)
            again = await resumed(stack, server, client)
            await client.reading
            assert client.first("error")["code"] == "taken_over"
            ((name, session),) = (await list_sessions(server)).items()
            assert name == client.first("session")["session_id"]
            assert session["state"] == "active"
            num_chunks = again.types().count("chunk_stats")
            while again.types().count("chunk_stats") < num_chunks + 2:
                assert "error" not in again.types(), again.messages
                await asyncio.sleep(0.02)
            await again.socket.close()
            await until_states(server, [])

    run(scenario)


def test_a_session_that_nobody_resumes_is_freed(server):
    async def scenario():
        async with AsyncExitStack() as stack:
            client = await walking(stack, server)
            cut(client)
            ((name, _),) = (await until_states(server, ["detached"])).items()
            await until_states(server, [])
            while f"session {name} closed: not resumed within {GRACE_S} s" not in log_of(server):
                await asyncio.sleep(0.1)

    run(scenario)


def log_of(server):
    return server.log.read_text()


def test_a_client_comes_back_through_the_other_transport_when_its_own_is_killed(server):
    async def scenario():
        async with AsyncExitStack() as stack:
            client = await walking(stack, server)
            os.kill(
                await asyncio.to_thread(logged_pid, server, client, "Transport"), signal.SIGKILL
            )
            await client.socket.wait_closed()
            again = await resumed(stack, server, client)
            assert len(await list_sessions(server)) == 1
            await again.socket.close()
            await until_states(server, [])

    run(scenario)


@pytest.mark.parametrize("victim", ["rank", "group"])
def test_a_detached_session_dies_with_its_group_and_leaves_nothing(server, victim):
    async def scenario():
        async with AsyncExitStack() as stack:
            client = await walking(stack, server)
            cut(client)
            await until_states(server, ["detached"])
            process = await asyncio.to_thread(process_of, server, client, victim)
            os.kill(process, signal.SIGKILL)
            token = client.first("session")["resume_token"]
            while True:  # until the death is known, a call may wait for the group
                late = await join(stack, server, resume=token)
                await late.until("error")
                if late.first("error")["code"] == "session_gone":
                    break
            assert "session" not in late.types()
            await until_states(server, [])
            client = await walking(stack, server)
            await client.socket.close()

    run(scenario)


def process_of(server, client, kind):
    """The process that has a client's session: a rank, or its group's replica."""
    if kind == "group":
        return groups(server)[group_of(client)]
    return logged_pid(server, client, "WorldRank")


def logged_pid(server, client, actor):
    """The process of an actor which has logged that it opened the client's session."""
    name = client.first("session")["session_id"]
    opened = rf"{actor} pid=(\d+)\)\S* .*session {name} opened"
    (pid,) = set(wait_until(lambda: re.findall(opened, log_of(server)), every_s=0.1))
    return int(pid)


def test_a_group_that_drains_hands_its_detached_sessions_over(server):
    def one_group(application):
        set_groups(application, 1)

    async def scenario():
        async with AsyncExitStack() as stack:
            clients = await walking_in_both_groups(stack, server)
            ranks = server.descendants(RANK)
            for client in clients:
                cut(client)
            before = await until_states(server, ["detached", "detached"])
            await asyncio.to_thread(deploy, server, one_group)
            await asyncio.sleep(3)  # the one that drains has nothing else to do by now
            assert server.descendants(RANK) == ranks
            again = [await resumed(stack, server, client) for client in clients]
            assert len({group_of(client) for client in again}) == 1
            while len(server.descendants(RANK)) != 1:
                await asyncio.sleep(0.2)
            after = await list_sessions(server)
            assert len(after) == 2 and len(after.keys() & before.keys()) == 1
            for old, new in zip(clients, again, strict=True):
                assert chunks_of(new)[0] >= chunks_of(old)[-1]
            gone = set(ranks) - set(server.descendants(RANK))
            while any(map(psutil.pid_exists, gone)):  # until Ray has waited for it
                await asyncio.sleep(0.1)

    run(scenario)


def test_a_group_that_drains_ends_when_the_grace_is_over(server):
    def one_group(application):
        set_groups(application, 1)

    async def scenario():
        async with AsyncExitStack() as stack:
            clients = await walking_in_both_groups(stack, server)
            for client in clients:
                cut(client)
            await until_states(server, ["detached", "detached"])
            await asyncio.to_thread(deploy, server, one_group)
            while len(server.descendants(RANK)) != 1:
                await asyncio.sleep(0.2)
            await until_states(server, [])

    run(scenario)
