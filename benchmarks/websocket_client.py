"""A WebSocket client on a blocking socket, for tests and benchmarks.

It reads only when asked to, so a test can be a slow client. Payloads are read into one buffer:
a client that copied megabytes several times would be what a benchmark measures.
"""

import socket
import time
from collections.abc import Generator, Iterator
from typing import Any, Self, cast

from msgspec import msgpack
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from transport.paths import SOCKET_PATH

READ_BYTES = 65_536  # the most in one read at a limited rate

Header = dict[str, Any]  # fields of one message about a frame batch


class WebSocketClient:
    """One open world. Its calls block: use one thread for each client."""

    def __init__(self, port: int, *, receive_buffer_bytes: int | None = None, **init: Any) -> None:
        """Connects to a port of loopback and sends an init with the given fields.

        `receive_buffer_bytes` bounds TCP's receive window; None: the system's default.
        """
        self.socket = socket.socket()
        if receive_buffer_bytes is not None:  # `connect` announces the window
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.closed_with: Close | None = None
        self._file = self.socket.makefile("rb")
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}{SOCKET_PATH}"))
        self._shake_hands()
        self.send(type="init", **init)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Drops the connection without a closing handshake."""
        self._file.close()
        self.socket.close()

    def send(self, **fields: Any) -> None:
        self._protocol.send_binary(msgpack.encode(fields))
        self._flush()

    def acknowledge(self, header: Header) -> None:
        """Acknowledges the chunk of this header."""
        self.send(type="ack", chunk_index=header["chunk_index"])

    def chunks(self, *, bytes_per_s: float | None = None) -> Iterator[Header]:
        """The header of each chunk's last batch, after acknowledging the chunk."""
        for header, _ in self.batches(bytes_per_s=bytes_per_s):
            if header["is_final_frame_batch"]:
                self.acknowledge(header)
                yield header

    def batches(
        self, *, bytes_per_s: float | None = None
    ) -> Iterator[tuple[Header, bytes | memoryview]]:
        """Each frame batch until the server closes: its header and its payload."""
        while (data := self.read(bytes_per_s=bytes_per_s)) is not None:
            header: Header = msgpack.decode(data)
            payload = header.pop("payload", None)
            if header["type"] == "frame_batch_header":
                payload = self.read(bytes_per_s=bytes_per_s)
            if payload is not None:
                yield header, payload

    def read(self, *, bytes_per_s: float | None = None) -> memoryview | None:
        """The next binary frame; None once the server has closed, as `closed_with` records.

        The next read overwrites the memory. Pings on the way are answered.
        """
        while True:
            frame = self._read_frame(bytes_per_s)
            match frame.opcode:
                case Opcode.BINARY:
                    return cast(memoryview, frame.data)
                case Opcode.PING:
                    self._protocol.send_pong(bytes(frame.data))
                    self._flush()
                case Opcode.CLOSE:
                    self.closed_with = Close.parse(bytes(frame.data))
                    return None

    def _shake_hands(self) -> None:
        """Reads the response and no byte more. Raises the reason of a failure."""
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
            if line := self._file.readline():
                self._protocol.receive_data(line)
            else:
                self._protocol.receive_eof()
        if self._protocol.handshake_exc is not None:
            raise self._protocol.handshake_exc

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            self.socket.sendall(data)

    def _read_frame(self, bytes_per_s: float | None) -> Frame:
        """The protocol's `receive_data` would copy a payload three times; this copies none."""

        def read_exact(num_bytes: int) -> Generator[None, None, bytes]:
            yield from ()
            return cast(bytes, self._read_bytes(num_bytes, bytes_per_s))  # sliced like bytes

        parser = Frame.parse(read_exact, mask=False)
        try:
            next(parser)
        except StopIteration as parsed:
            return cast(Frame, parsed.value)
        raise AssertionError("a blocking read ends the parser")

    def _read_bytes(self, num_bytes: int, bytes_per_s: float | None) -> memoryview:
        """The next bytes, in the client's buffer. Raises ConnectionError when the stream ends."""
        if num_bytes > len(self._buffer):
            self._buffer = memoryview(bytearray(num_bytes))
        data = self._buffer[:num_bytes]
        num_read = 0
        while num_read < num_bytes:
            stop = num_bytes if bytes_per_s is None else num_read + READ_BYTES
            received_bytes = self._file.readinto(data[num_read:stop])
            if not received_bytes:
                raise ConnectionError("the server dropped the connection")
            num_read += received_bytes
            if bytes_per_s is not None:
                time.sleep(received_bytes / bytes_per_s)
        return data
