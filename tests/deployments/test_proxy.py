"""The protocol of sockets, in a uvicorn server of this process. `test_sockets` tests the hook."""

import asyncio
import socket

import pytest
import uvicorn
from websockets.asyncio.client import connect

from benchmarks.websocket_client import WebSocketClient
from deployments.proxy import SocketProtocol


async def serve(app, client, **options):
    """Serve `app` on a free port while `client(port)` runs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        options = {"ws": SocketProtocol, "lifespan": "off", "log_level": "warning"} | options
        server = uvicorn.Server(uvicorn.Config(app, **options))
        serving = asyncio.create_task(server.serve([listener]))
        await client(listener.getsockname()[1])
        server.should_exit = True
        await serving


@pytest.mark.parametrize("abort", [False, True])
@pytest.mark.parametrize("after_disconnect", [False, True])
def test_messages_to_a_client_that_has_left_are_dropped(abort, after_disconnect):
    """They are sent before, or after, the application has received the disconnect."""
    num_sent, ended = 0, asyncio.Event()

    async def app(scope, receive, send):
        nonlocal num_sent
        await send({"type": "websocket.accept"})
        await receive()  # the connect
        if after_disconnect:
            assert (await receive())["type"] == "websocket.disconnect"
        for _ in range(200):
            await send({"type": "websocket.send", "bytes": bytes(1000)})
            await asyncio.sleep(0.001)
            num_sent += 1
        await send({"type": "websocket.close", "code": 1000})
        ended.set()

    async def leave(port):
        async with connect(f"ws://127.0.0.1:{port}") as client:
            if not after_disconnect:
                await client.recv()
            if abort:
                client.transport.abort()
        await ended.wait()

    asyncio.run(asyncio.wait_for(serve(app, leave), 20))
    assert num_sent == 200


def test_messages_to_a_client_that_reads_nothing_are_dropped_once_it_is_closed(monkeypatch):
    """They wait for the client before."""
    monkeypatch.setattr("deployments.proxy.CLOSE_GRACE_S", 0.5)
    ended = asyncio.Event()

    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})
        for _ in range(200):
            await send({"type": "websocket.send", "bytes": bytes(100_000)})
        ended.set()

    async def freeze(port):
        with await asyncio.to_thread(WebSocketClient, port, receive_buffer_bytes=16_384):
            await ended.wait()

    pings = {"ws_ping_interval": 0.2, "ws_ping_timeout": 0.2}
    asyncio.run(asyncio.wait_for(serve(app, freeze, **pings), 20))
