import asyncio
import pickle

import pytest
from ray.exceptions import ActorDiedError, TaskCancelledError

from deployments.serve_middleware import CopyViews, ReceiveDisconnects


def send_through(*messages):
    """The messages behind the middleware, and the seconds of each pause."""
    sent, pauses = [], []

    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    async def send(message):
        sent.append(message)

    async def sleep(seconds):
        pauses.append(seconds)

    asyncio.run(CopyViews(app, sleep=sleep)({"type": "websocket"}, None, send))
    return sent, pauses


def test_a_view_travels_as_bytes():
    view = memoryview(bytearray(b"pixels")).toreadonly()
    sent, _ = send_through({"type": "websocket.send", "bytes": view})
    assert pickle.loads(pickle.dumps(sent)) == [{"type": "websocket.send", "bytes": b"pixels"}]


def test_there_is_a_pause_after_large_messages_only():
    small, large = ({"type": "websocket.send", "bytes": bytes(n)} for n in (2**20 - 1, 2**20))
    close = {"type": "websocket.close", "code": 1000}
    sent, pauses = send_through(small, large, small, large, close)
    assert len(sent) == 5
    assert len(pauses) == 2


def test_texts_and_closes_pass():
    messages = [{"type": "websocket.send", "text": "a"}, {"type": "websocket.close", "code": 1000}]
    sent, _ = send_through(*messages)
    assert sent == messages


def receive_through(receive, *, kind):
    """The message that an application behind the middleware receives."""
    received = []

    async def app(scope, receive, send):
        received.append(await receive())

    asyncio.run(ReceiveDisconnects(app)({"type": kind}, receive, None))
    return received


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("error", [TaskCancelledError, ActorDiedError])
def test_a_receive_that_is_cancelled_or_loses_its_proxy_is_a_disconnect(kind, error):
    async def receive():
        raise error

    assert receive_through(receive, kind=kind) == [{"type": f"{kind}.disconnect"}]


def test_messages_and_other_errors_pass():
    async def receive():
        return {"type": "http.request", "body": b"a"}

    async def fail():
        raise ZeroDivisionError

    assert receive_through(receive, kind="http") == [{"type": "http.request", "body": b"a"}]
    with pytest.raises(ZeroDivisionError):
        receive_through(fail, kind="http")
