"""A client of a guarded server: its tokens, and the answer to its init."""

import pytest
from msgspec import msgpack
from starlette.websockets import WebSocketDisconnect

from transport.paths import SOCKET_PATH

ALICE = "alice-0123456789abcdef"
BOB = "bob-0123456789abcdef"


def bearer(text=ALICE):
    return {"authorization": f"Bearer {text}"}


def first_message(http, path=SOCKET_PATH, **fields):
    """The answer to an init: its type, or an error's code, close code, text and time to wait."""
    with http.websocket_connect(path, **fields) as socket:
        socket.send_bytes(msgpack.encode({"type": "init", "max_chunks": 1}))
        message = msgpack.decode(socket.receive_bytes())
        if message["type"] != "error":
            return message["type"]
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_bytes()
        return message["code"], closed.value.code, message["content"], message.get("retry_after_s")
