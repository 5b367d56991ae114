import asyncio
import pickle

import pytest

from deployments.serve_middleware import CopyViews


@pytest.fixture
def rests(monkeypatch):
    """How long each rest was."""
    taken = []

    async def rest(seconds):
        taken.append(seconds)

    monkeypatch.setattr("deployments.serve_middleware.asyncio.sleep", rest)
    return taken


def pass_on(*messages):
    """What comes out at the other end."""
    sent = []

    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    async def send(message):
        sent.append(message)

    asyncio.run(CopyViews(app)({"type": "websocket"}, None, send))
    return sent


def test_a_view_travels_as_bytes():
    view = memoryview(bytearray(b"pixels")).toreadonly()
    sent = pass_on({"type": "websocket.send", "bytes": view})
    assert pickle.loads(pickle.dumps(sent)) == [{"type": "websocket.send", "bytes": b"pixels"}]


def test_there_is_a_rest_after_large_messages_alone(rests):
    small, large = ({"type": "websocket.send", "bytes": bytes(n)} for n in (2**20 - 1, 2**20))
    close = {"type": "websocket.close", "code": 1000}
    assert len(pass_on(small, large, small, large, close)) == 5
    assert len(rests) == 2


def test_texts_and_closes_pass():
    messages = [{"type": "websocket.send", "text": "a"}, {"type": "websocket.close", "code": 1000}]
    assert pass_on(*messages) == messages
