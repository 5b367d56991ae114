"""Clients that leave, on real sockets: one line in the log, never a traceback."""

import json
import logging
import re
import socket

import anyio
import pytest
from msgspec import msgpack
from msgspec.structs import replace

from benchmarks.websocket_client import WebSocketClient
from tests.waiting import wait_until
from transport.wire.messages import Queued, Starting

INIT = {"extensions": True, "realtime_output_format": "raw"}
HIDE = {"type": "event", "kind": "visibility", "payload": "hidden"}
CLOSED = re.compile(
    r"(session \w+ closed, \d+ the client left|session \w+ closed: the client left)"
)


def read_until(client, kind):
    while msgpack.decode(client.read())["type"] != kind:
        pass


@pytest.fixture
def world(make_world):
    """A world of large frames; `news` repeats until `waiting` is over. It waits for no client."""
    world = make_world(size=(832, 480))
    world.info = replace(world.info, resume_grace_s=0.0)
    opened = world.open
    world.waiting = world.num_waiting = 0

    async def open_late(spec, image, *, on_wait):
        while world.waiting:
            world.num_waiting += 1
            for message in world.news:
                await on_wait(message)
            await anyio.sleep(0.01)
        return await opened(spec, image, on_wait=on_wait)

    world.open = open_late
    return world


def leave_after_the_handshake(port, world):
    client = WebSocketClient(port, **INIT, first_frame="!")  # refused, so nothing opens
    client.close()


def leave_the_line(port, world):
    world.waiting, world.news = True, [Queued(2, all_taken=True), Starting()]
    with WebSocketClient(port, **INIT) as client:
        read_until(client, "starting")


def leave_the_line_in_silence(port, world):
    world.waiting = True
    with WebSocketClient(port):
        wait_until(lambda: world.num_waiting > 2)


def leave_in_a_step(port, world):
    world.running.clear()
    with WebSocketClient(port, **INIT):
        wait_until(world.stepping.is_set)


def leave_in_a_payload(port, world):
    with WebSocketClient(port, receive_buffer_bytes=4096, **INIT) as client:
        read_until(client, "frame_batch_header")


def leave_between_chunks(port, world):
    with WebSocketClient(port, **INIT) as client:
        next(client.chunks())


def leave_in_a_pause(port, world):
    with WebSocketClient(port, **INIT) as client:
        for _, header in zip(range(2), client.batches(), strict=False):
            assert header
        client.send(**HIDE)
        wait_until(lambda: world.pauses)


def leave_in_good_order(port, world):
    with WebSocketClient(port, **INIT) as client:
        next(client.chunks())
        client._protocol.send_close(1001, "bye")
        client._flush()
        while client.read() is not None:
            pass


def request_clip(port, *, actions="w-240", length=None):
    body = json.dumps({"actions": actions}).encode()
    head = "POST /v1/clips HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(f"{head}content-length: {length or len(body)}\r\n\r\n".encode() + body)
    return client


def leave_a_clip_in_its_request(port, world):
    request_clip(port, length=99_999).close()


def leave_a_clip_in_the_line(port, world):
    world.waiting, world.news = True, [Queued(1)]
    client = request_clip(port)
    wait_until(lambda: world.num_waiting > 2)
    client.close()


def leave_a_clip_in_its_video(port, world):
    client = request_clip(port)
    assert client.recv(12) == b"HTTP/1.1 200"
    client.close()


WAYS = {name: way for name, way in globals().items() if name.startswith("leave_")}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_client_that_leaves_leaves_one_line(world, listen, caplog, way):
    caplog.set_level(logging.INFO)
    with listen(world, idle_after_s=60) as port:
        way(port, world)
        wait_until(lambda: CLOSED.search(caplog.text))
        wait_until(lambda: not world.live)
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if CLOSED.search(line)]) == 1, lines
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not [record for record in caplog.records if record.exc_info]


WAITED_FOR = [leave_in_a_step, leave_in_a_payload, leave_between_chunks, leave_in_a_pause]


@pytest.mark.parametrize("way", [*WAITED_FOR, leave_in_good_order])
def test_a_world_waits_for_a_client_whose_socket_was_lost(world, listen, caplog, way):
    caplog.set_level(logging.INFO)
    world.info = replace(world.info, resume_grace_s=60.0)
    with listen(world) as port:
        way(port, world)
        wait_until(lambda: CLOSED.search(caplog.text))
        wait_until(lambda: world.live == world.detached)
        assert bool(world.detached) is (way in WAITED_FOR)


def test_a_client_that_vanishes_in_a_pause_is_noticed(world, listen):
    """It sends no close, and its pong is missing."""
    with listen(world, ping_s=3) as port:
        client = WebSocketClient(port, **INIT)
        client.send(**HIDE)
        wait_until(lambda: world.pauses)
        wait_until(lambda: not world.live)
        client.close()
