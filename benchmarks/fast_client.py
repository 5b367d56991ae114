"""A WebSocket client (RFC 6455) that costs as little as a bare socket: it reads into one buffer.

A library's client copies a message of megabytes several times, and would be what is measured.
"""

import base64
import os
import socket
import time
from typing import Any

from msgspec import msgpack

MAX_PAYLOAD_BYTES = 32 * 2**20
BINARY, CLOSE, PING, PONG = 2, 8, 9, 10


class FastClient:
    """One open world. Blocking: one thread each."""

    def __init__(self, port: int, **init: Any) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")
        self._buffer = memoryview(bytearray(MAX_PAYLOAD_BYTES))
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            "GET /v1/realtime_video/generate HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        status = self._file.readline()
        assert b" 101 " in status, status
        while self._file.readline() != b"\r\n":
            pass
        self.send(type="init", extensions=True, **init)

    def send(self, **fields: Any) -> None:
        self._send(BINARY, msgpack.encode(fields))

    def receive(self) -> tuple[dict[str, Any], memoryview | None, float]:
        """The next message, its payload in this client's buffer, and when all of it was there."""
        message = msgpack.decode(self._receive())
        payload = message.pop("payload", None)
        if message["type"] == "frame_batch_header":
            payload = self._receive()
        return message, payload, time.monotonic()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def _receive(self) -> memoryview:
        while True:
            first, second = self._file.read(2)
            size = second & 127
            if size > 125:
                size = int.from_bytes(self._file.read(2 if size == 126 else 8))
            data = self._buffer[:size]
            have = 0
            while have < size:
                have += self._file.readinto(data[have:])
            match first & 15:
                case 2:
                    return data
                case 9:
                    self._send(PONG, bytes(data))
                case 8:
                    raise ConnectionError(f"closed: {bytes(data)!r}")

    def _send(self, opcode: int, data: bytes) -> None:
        """Masked, as a client must; by zeros, which costs nothing."""
        size = len(data)
        length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2)
        self._socket.sendall(bytes([0x80 | opcode]) + length + bytes(4) + data)
