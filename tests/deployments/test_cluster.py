"""The whole stack from a client: a proxy, a Transport replica, a replica group."""

import asyncio
import contextlib
import io
import json
import os
import signal
import urllib.request

import av
import numpy as np
import pytest
from msgspec import msgpack
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed

from benchmarks.local_server import wait_until_ready
from transport.client import connect

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("server")]

TIMEOUT_S = 60
WORLDS, QUEUE = 4, 8  # max_sessions and max_waiting of the server's group


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 2 * TIMEOUT_S))


async def take(client, num_chunks):
    chunks = []
    async for chunk in client.chunks():
        chunks.append(chunk)
        if len(chunks) == num_chunks:
            break
    return chunks


async def until_ready(server):
    await asyncio.to_thread(wait_until_ready, server)


def test_a_session_applies_its_keys(server):
    async def scenario():
        async with connect(server.ws, seed=5) as client:
            event = await client.hold("w")
            chunks = await take(client, 4)
        assert [c.frames.shape[0] for c in chunks] == [9, 12, 12, 12]
        assert [c.index for c in chunks] == [0, 1, 2, 3]
        height, width = chunks[0].frames.shape[1:3]
        assert (client.session.width, client.session.height) == (width, height)
        assert event in client.acked_events
        assert event in [i for c in chunks for i in c.applied.event_ids]
        assert chunks[-1].applied.actions == [["w"]] * 3
        assert chunks[-1].stats.scheduler_forward_ms > 0

    run(scenario())


def test_a_prompt_of_unknown_words_is_a_warning(server):
    async def scenario():
        async with connect(server.ws, prompt="a castle") as client:
            await take(client, 1)
            await client.prompt("snow")
            await take(client, 3)
            assert [one.code for one in client.warnings] == ["unknown_words"]
            await client.prompt("Schloss")
            await take(client, 3)
            assert [one.code for one in client.warnings] == ["unknown_words"] * 2

    run(scenario())


def test_the_same_seed_and_keys_give_the_same_frames(server):
    async def generate():
        script = [[], ["w"], ["w"], ["l"], ["l"], []]
        init = {"seed": 9, "condition_inputs": {"camera_actions": script}}
        async with connect(server.ws, **init) as client:
            return np.concatenate([c.frames for c in await take(client, 3)])

    async def scenario():
        first, second = await asyncio.gather(generate(), generate())
        assert np.array_equal(first, second)

    run(scenario())


def test_a_client_without_extensions_gets_the_plain_wire(server):
    async def scenario():
        async with open_socket(server.ws, max_size=None) as socket:
            await socket.send(msgpack.encode({"type": "init", "prompt": "x", "max_chunks": 1}))
            messages = [data async for data in socket]
        assert socket.close_code == 1000
        header, payload, stats = messages
        fields = msgpack.decode(header)
        assert fields["type"] == "frame_batch_header" and "applied_controls" not in fields
        assert len(payload) == fields["total_size"] == 9 * fields["bytes_per_frame"]
        assert msgpack.decode(stats)["type"] == "chunk_stats"

    run(scenario())


def test_clients_queue_when_all_worlds_are_taken_and_a_vanished_client_makes_room(server):
    """A client that disconnects without a close frame frees its world."""

    async def scenario():
        async with contextlib.AsyncExitStack() as stack:
            clients = [await join(stack, server) for _ in range(WORLDS)]
            for client in clients:
                await until(client, "session")
            waiting = await join(stack, server)
            first = await until(waiting, "queued")
            assert (first["position"], first["all_taken"]) == (1, True)
            for position in range(2, QUEUE + 1):
                queued = await join(stack, server)
                assert (await until(queued, "queued"))["position"] == position
            await be_refused(stack, server)
            clients[0].transport.abort()
            while msgpack.decode(await waiting.recv())["type"] != "session":
                pass

    run(scenario())


async def join(stack, server):
    """A client that will disconnect without a close frame, when `stack` is closed."""
    socket = await open_socket(server.ws, max_size=None)
    stack.callback(socket.transport.abort)
    await socket.send(msgpack.encode({"type": "init", "prompt": "x", "extensions": True}))
    return socket


async def until(socket, kind):
    """The next message of type `kind`. It skips others, errors excepted."""
    while True:
        message = msgpack.decode(await socket.recv())
        assert message["type"] != "error", message
        if message["type"] == kind:
            return message


async def be_refused(stack, server):
    socket = await join(stack, server)
    while (answer := msgpack.decode(await socket.recv()))["type"] == "starting":
        pass  # the group has not answered yet
    assert (answer["code"], answer["retry_after_s"] >= 1) == ("busy", True)
    with pytest.raises(ConnectionClosed):
        await socket.recv()
    assert socket.close_code == 1013


def test_bad_input_is_answered_and_other_sessions_go_on(server):
    async def misbehave():
        async with open_socket(server.ws, max_size=None) as socket:
            for wrong in (
                "hello",
                b"\xc1",
                msgpack.encode({"type": "dance"}),
                msgpack.encode({"type": "event", "kind": "prompt", "payload": "too early"}),
                msgpack.encode({"type": "init", "size": "1e9x2"}),
                msgpack.encode({"type": "init", "first_frame": "/etc/passwd"}),
                msgpack.encode({"type": "init", "first_frame": b"not an image"}),
            ):
                await socket.send(wrong)
                answer = msgpack.decode(await socket.recv())
                assert answer["type"] == "error" and answer["code"] and answer["content"]
            await socket.send(b"\0" * 20_000_000)
            assert msgpack.decode(await socket.recv())["code"] == "too_large"
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1009

    async def scenario():
        async with connect(server.ws) as client:
            await take(client, 1)
            await misbehave()
            assert [c.index for c in await take(client, 2)] == [1, 2]

    run(scenario())


def test_a_clip_is_an_mp4_over_http(server):
    body = json.dumps({"actions": "w-6,l-4,none-2", "seed": 3, "prompt": "a castle"}).encode()
    request = urllib.request.Request(
        f"{server.http}/v1/clips", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        assert answer.headers["content-type"] == "video/mp4"
        assert "use words such as dawn" in answer.headers["x-warning"]
        with av.open(io.BytesIO(answer.read())) as video:
            assert sum(1 for _ in video.decode(video=0)) == 1 + 4 * 11


def test_a_killed_transport_leaves_no_world_behind(server):
    async def scenario():
        async with contextlib.AsyncExitStack() as stack:
            for client in [await join(stack, server) for _ in range(WORLDS)]:
                await until(client, "session")
            (transport,) = server.descendants("ServeReplica:lingbot:Transport")
            os.kill(transport, signal.SIGKILL)
            while transport in server.descendants("ServeReplica:lingbot:Transport"):
                await asyncio.sleep(0.05)
            await until_ready(server)
            for client in [await join(stack, server) for _ in range(WORLDS)]:
                await until(client, "session")

    run(scenario())


def test_a_killed_rank_is_replaced_and_the_world_of_a_plain_client_goes_on(server):
    async def scenario():
        async with open_socket(server.ws, max_size=None) as socket:
            await socket.send(msgpack.encode({"type": "init", "prompt": "x"}))
            types = [await next_type(socket)]  # its world is open
            (rank,) = server.descendants("ray::WorldRank")
            os.kill(rank, signal.SIGKILL)
            while server.descendants("ray::WorldRank") in ([], [rank]):
                types.append(await next_type(socket))
            num_chunks = types.count("chunk_stats")
            while types.count("chunk_stats") < num_chunks + 3:
                types.append(await next_type(socket))
        assert set(types) <= {"frame_batch", "frame_batch_header", "chunk_stats"}, types
        await until_ready(server)
        assert len(server.descendants("ray::WorldRank")) == 1

    run(scenario())


async def next_type(socket):
    """The type of a plain client's next message."""
    kind = msgpack.decode(await socket.recv())["type"]
    if kind == "frame_batch_header":
        await socket.recv()  # the payload
    return kind
