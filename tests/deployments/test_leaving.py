"""Clients that leave at every point of a session: no session is left, and no traceback."""

import asyncio
import contextlib
import json

import pytest
from msgspec import DecodeError, Struct, msgpack
from websockets.asyncio.client import connect as open_socket

from benchmarks.server_sample import unended_sessions
from transport.client import connect

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("server")]

TIMEOUT_S = 120
WORLDS = 4  # max_sessions of the server's group
INIT = {"type": "init", "prompt": "x", "extensions": True, "num_inference_steps": 1}
NOISE = (
    "Traceback",
    "Unhandled error",
    "unexpected error",
    "GeneratorExit",
    "a clip failed",
    "the world raised",
    "never retrieved",
)
HIDE = {"type": "event", "kind": "visibility", "payload": "hidden"}


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, TIMEOUT_S))


class Message(Struct):
    type: str


def kind_of(data):
    """The type of a message; None for a bare payload."""
    with contextlib.suppress(DecodeError):
        return msgpack.decode(data, type=Message).type


async def leave(server, *, after, delay_s, abort, events=(), **init):
    """A client that leaves `delay_s` after a message of type `after`; None: after its `init`."""
    async with open_socket(server.ws, max_size=None) as client:
        await client.send(msgpack.encode(INIT | init))
        for event in events:
            await client.send(msgpack.encode(event))
        while after is not None and kind_of(await client.recv()) != after:
            pass
        await asyncio.sleep(delay_s)
        if abort:
            client.transport.abort()


def clip_request(*, actions="w-240", length=None):
    body = json.dumps({"actions": actions, "seed": 3}).encode()
    head = (
        "POST /v1/clips HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {length or len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def leave_clip(server, request, *, num_bytes, delay_s):
    """A client that closes its socket after so many bytes of the answer."""
    host, _, port = server.address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    if num_bytes:
        assert b" 200 " in await reader.readexactly(num_bytes)
    await asyncio.sleep(delay_s)
    writer.transport.abort()


def test_clients_that_leave_leave_no_session_and_no_traceback(server):
    start = len(server.log.read_text())

    def log():
        return server.log.read_text()[start:]

    async def scenario():
        for abort in (False, True):
            for delay_s in (0.0, 0.05, 0.2):
                await asyncio.gather(
                    *(leave(server, after=None, delay_s=delay_s, abort=abort) for _ in range(3))
                )
                await leave(server, after="chunk_stats", delay_s=delay_s, abort=abort)
                await leave(server, after="session", delay_s=delay_s, abort=abort)
                await leave(server, after="paused", delay_s=delay_s, abort=abort, events=[HIDE])
                await leave(server, after="chunk_stats", delay_s=delay_s, abort=abort, max_chunks=1)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(WORLDS):
                client = await stack.enter_async_context(connect(server.ws))
                await client.next_chunk()  # it has its world
            for abort in (False, True):
                await leave(server, after="queued", delay_s=0.1, abort=abort)
        for delay_s in (0.0, 0.1, 0.5):
            for num_bytes in (0, 40, 20_000):
                await leave_clip(server, clip_request(), num_bytes=num_bytes, delay_s=delay_s)
            await leave_clip(server, clip_request(length=9999), num_bytes=0, delay_s=delay_s)
        while unended_sessions(log()):
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)  # for what Ray logs once it has collected the garbage

    run(scenario())
    assert not [word for word in NOISE if word in log()], log()[-20000:]
