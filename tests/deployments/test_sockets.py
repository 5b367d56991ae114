"""Sockets behind Serve's proxy: negotiation, payloads and the cost of a deaf client."""

import asyncio
import io
import json
import re
import time
import urllib.request

import numpy as np
import pytest
import websockets.sync.client
from PIL import Image
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import InvalidStatus

from benchmarks.dashboard import stored_bytes
from benchmarks.websocket_client import WebSocketClient
from deployments.proxy import CLOSE_GRACE_S, PING_INTERVAL_S, PING_TIMEOUT_S
from transport.client import connect

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("server")]

TIMEOUT_S = 60


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 2 * TIMEOUT_S))


def logged(server, words):
    return re.findall(words, server.log.read_text())


async def until(server, condition):
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, server.log.read_text()[-5000:]
        await asyncio.sleep(0.1)


async def until_logged(server):
    """Returns once the log has the lines of all earlier clients: those of a process keep order."""
    async with connect(server.ws) as client:
        await client.next_chunk()
        name = client.session.session_id
    await until(server, lambda: logged(server, f"session {name} closed, "))


def test_no_socket_deflates_and_the_log_shows_it(server):
    """This client asks for permessage-deflate, as browsers do."""
    run(until(server, lambda: logged(server, "WebSockets without permessage-deflate")))
    before = len(logged(server, "WebSocket opened, extensions: none"))
    with websockets.sync.client.connect(server.ws, compression="deflate") as client:
        assert "permessage-deflate" in client.request.headers["Sec-WebSocket-Extensions"]
        assert "Sec-WebSocket-Extensions" not in client.response.headers
        assert client.protocol.extensions == []
    run(until(server, lambda: len(logged(server, "WebSocket opened, extensions: none")) > before))


def test_an_image_of_nearly_16_mib_opens_a_world(server):
    file = io.BytesIO()
    Image.new("RGB", (2360, 2360), (200, 100, 50)).save(file, "BMP")  # not compressed
    assert 15.9 < len(file.getvalue()) / 2**20 < 16

    async def scenario():
        init = {"first_frame": file.getvalue(), "max_chunks": 1}
        async with connect(server.ws, **init, realtime_output_format="raw") as client:
            return [chunk async for chunk in client.chunks()]

    (chunk,) = asyncio.run(asyncio.wait_for(scenario(), TIMEOUT_S))
    assert np.abs(chunk.frames[0].mean(axis=(0, 1)) - (200, 100, 50)).max() < 20


def test_a_session_changes_its_codec_while_it_streams(server, psnr_of):
    """With the same seed, every codec shows the frames of raw."""
    formats = ["jpeg", "webp", "h264", "delta-zstd", "raw"]

    async def stream(*, change):
        async with connect(server.ws, seed=4, realtime_delivery="on_demand") as client:
            chunks = []
            for wanted in [None, *formats]:
                if change and wanted:
                    await client.change_output(realtime_output_format=wanted)
                await client.send_actions([["w"], ["w"], ["l"]])  # a chunk's: none begins before
                chunks.append(await client.next_chunk())
            return chunks

    async def scenario():
        return await stream(change=False), await stream(change=True)

    plain, changed = asyncio.run(asyncio.wait_for(scenario(), TIMEOUT_S))
    assert {chunk.content_type for chunk in plain} == {"application/x-raw-rgb"}
    kinds = [chunk.content_type for chunk in changed]
    assert len(set(kinds)) == len(formats) and kinds[0] == kinds[-1], kinds
    for one, other in zip(plain, changed, strict=True):
        if other.content_type in ("application/x-raw-rgb", "application/x-delta-zstd-rgb"):
            assert (one.frames == other.frames).all()
        else:
            assert psnr_of(one.frames, other.frames) > 30


def test_a_plain_client_that_reads_nothing_is_closed_and_sent_no_more_than_its_pace(server):
    """No send blocks behind the proxy. Only missing pongs reveal such a client."""
    run(until_logged(server))
    opened = r"session (\w+) opened: "  # a transport's line
    began, known = time.monotonic(), set(logged(server, opened))
    num_bytes = stored_bytes(server)
    port = int(server.address.partition(":")[2])
    with WebSocketClient(port, receive_buffer_bytes=16_384):
        bound_s = PING_INTERVAL_S + PING_TIMEOUT_S + CLOSE_GRACE_S

        async def scenario():
            await until(server, lambda: set(logged(server, opened)) > known)
            (mine,) = set(logged(server, opened)) - known
            closed = rf"session {mine} closed, .* chunks, (\d+) frames"
            async with connect(server.ws) as other:  # it must not be delayed
                async for chunk in other.chunks():
                    assert chunk.stats.pace_wait_ms < 5000
                    if logged(server, closed):
                        break
            return int(logged(server, closed)[0])

        num_frames = asyncio.run(asyncio.wait_for(scenario(), bound_s + 120))
    assert num_frames <= 16 * (time.monotonic() - began) + 2 * 12
    # Its frames, about 13 MB, leave the object store.
    run(until(server, lambda: stored_bytes(server) < num_bytes + 2**20))


def test_a_socket_on_a_wrong_path_gets_404_and_the_right_one(server):
    with pytest.raises(InvalidStatus) as denied:
        websockets.sync.client.connect(server.ws.removesuffix("/generate"))
    assert denied.value.response.status_code == 404
    assert b"expected /v1/realtime_video/generate" in denied.value.response.body


def test_a_clip_whose_client_disconnects_is_not_finished(server):
    body = json.dumps({"actions": "w-240", "seed": 3}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{server.http}/v1/clips", body, headers)
    run(until_logged(server))
    left = r"session \w+ closed, 499 the client left: (\d+) chunks"
    before = len(logged(server, left))
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        assert b"ftyp" in answer.read(64)  # the clip plays before it is complete
    run(until(server, lambda: len(logged(server, left)) > before))
    assert int(logged(server, left)[-1]) < 80


def test_a_python_client_may_leave_in_the_middle_of_a_chunk(server):
    async def scenario():
        for encoding in ("raw", "h264"):
            async with open_socket(server.ws, max_size=None) as one:
                await one.send(b"\x81\xa4type\xa4init")
                await one.recv()
            async with connect(server.ws, realtime_output_format=encoding) as other:
                async for _ in other.chunks():
                    break

    run(scenario())
