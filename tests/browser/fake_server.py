"""Servers for the page's sockets: scripted ones, and a relay to the real one."""

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import uvicorn
from msgspec import msgpack
from playwright.sync_api import BrowserContext, Page, WebSocketRoute

from transport.app import build_app
from transport.codecs import open_encoder
from transport.codecs.decoder import Decoder
from transport.codecs.payload import Frames, build_header, split_chunk
from transport.wire.limits import ClientLimits
from transport.wire.messages import AppliedControls, Encoding, Format, HeaderExtras, encode_batch
from transport.wire.world import World

SOCKET = "**/v1/realtime_video/generate"
FPS = 16

SocketHandler = Callable[[WebSocketRoute], None]


@contextmanager
def serve_page(world: World, limits: ClientLimits = ClientLimits()) -> Iterator[SimpleNamespace]:  # noqa: B008
    """The whole transport around a world, in this process: `.http` is its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = build_app(world, limits=lambda: limits)
        running = uvicorn.Server(uvicorn.Config(app, ws="websockets-sansio", log_level="warning"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        while not running.started:
            time.sleep(0.01)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield SimpleNamespace(http=address, world=world)
        running.should_exit = True
        thread.join()


def answer_init(page: Page, *messages: dict[str, Any] | bytes) -> list[dict[str, Any]]:
    """Answer each `init` with these messages and never close.

    Returns the messages of the page. The list grows as they arrive.
    """
    received: list[dict[str, Any]] = []

    def answer(socket: WebSocketRoute) -> None:
        def reply(data: str | bytes) -> None:
            assert isinstance(data, bytes)
            received.append(msgpack.decode(data))
            if received[-1]["type"] == "init":
                for message in messages:
                    socket.send(message if isinstance(message, bytes) else msgpack.encode(message))

        socket.on_message(reply)

    page.route_web_socket(SOCKET, answer)
    return received


def route_sockets(page: Page, *handlers: SocketHandler) -> list[WebSocketRoute]:
    """Give each of the first sockets to its handler and later ones to the real server.

    Returns the sockets. The list grows as the page opens them.
    """
    sockets: list[WebSocketRoute] = []

    def take(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        if len(sockets) <= len(handlers):
            handlers[len(sockets) - 1](socket)
        else:
            socket.connect_to_server()

    page.route_web_socket(SOCKET, take)
    return sockets


class ScriptedServer:
    """A server whose messages the test sends, one by one. It keeps those of the page."""

    def __init__(self, page: Page | BrowserContext) -> None:
        self.received: list[dict[str, Any]] = []
        self.sockets: list[WebSocketRoute] = []
        page.route_web_socket(SOCKET, self._open)

    @property
    def inits(self) -> list[dict[str, Any]]:
        return [one for one in self.received if one["type"] == "init"]

    def send(self, *messages: dict[str, Any] | bytes) -> None:
        """Send to the newest socket."""
        for message in messages:
            data = message if isinstance(message, bytes) else msgpack.encode(message)
            self.sockets[-1].send(data)

    def close(self, code: int, reason: str = "") -> None:
        self.sockets[-1].close(code=code, reason=reason)

    def events(self, kind: str) -> list[Any]:
        """The payloads of the page's events of this kind."""
        return [one["payload"] for one in self.received if one.get("kind") == kind]

    def _open(self, socket: WebSocketRoute) -> None:
        self.sockets.append(socket)

        def keep(data: str | bytes) -> None:
            assert isinstance(data, bytes)
            self.received.append(msgpack.decode(data))

        socket.on_message(keep)


def close_with(code: int, reason: str = "") -> SocketHandler:
    """A handler that closes the socket at its first message."""
    return lambda socket: socket.on_message(lambda data: socket.close(code=code, reason=reason))


def chunk(
    frames: Frames,
    *,
    index: int,
    name: Format = "raw",
    quality: int = 90,
    flushes_older: bool = False,
    world_index: int = 0,
) -> list[bytes]:
    """The messages of one chunk, encoded by the server's own codec.

    `world_index` is the chunk's index in its world.
    """
    encoder = open_encoder(Encoding(format=name, quality=quality), fps=FPS)
    batches = split_chunk(frames, encoder, position=index * len(frames))
    extras = HeaderExtras(
        applied_controls=AppliedControls([], []),
        world_chunk_index=world_index,
        cut_over=flushes_older,
    )
    parts: list[bytes | memoryview] = []
    for batch_index, batch in enumerate(batches):
        payload = encoder.encode(batch)
        header = build_header(
            payload,
            request_id=f"fake-{index}",
            chunk_index=index,
            index=batch_index,
            num_batches=len(batches),
        )
        parts += encode_batch(header, payload.layout, payload.data, extras=extras)
    return [bytes(part) for part in parts]


def grey(num_frames: int, level: int, *, width: int = 112, height: int = 64) -> Frames:
    return np.full((num_frames, height, width, 3), level, np.uint8)


def read_batches(messages: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """(header, payload) of every batch in these messages."""
    header: dict[str, Any] | None = None
    for data in messages:
        if header is not None:
            yield header, data
            header = None
            continue
        message = msgpack.decode(data)
        if message["type"] == "frame_batch_header":
            header = message
        elif message["type"] == "frame_batch":
            yield message, message["payload"]


def decode(messages: list[bytes]) -> Frames:
    """The frames of one chunk, [T, H, W, 3]."""
    decoder = Decoder()
    return np.concatenate([decoder.decode(*batch) for batch in read_batches(messages)])


class Relay:
    """Forwards messages between the page and the server, and keeps the frames of the server."""

    def __init__(self, page: Page) -> None:
        self.codecs: list[str] = []  # of each chunk
        self.frames: dict[tuple[int, int], Frames] = {}  # by (chunk index, frame index in it)
        self.sockets: list[WebSocketRoute] = []  # the page's side of each
        page.route_web_socket(SOCKET, self._connect)

    def _connect(self, socket: WebSocketRoute) -> None:
        self.sockets.append(socket)
        server = socket.connect_to_server()
        decoder = Decoder()
        header: dict[str, Any] | None = None

        def forward(data: str | bytes) -> None:
            nonlocal header
            assert isinstance(data, bytes)
            socket.send(data)
            message = header or msgpack.decode(data)
            if header is not None:
                self._note_chunk(decoder, message, data)
                header = None
            elif message["type"] == "frame_batch_header":
                header = message
            elif message["type"] == "frame_batch":
                self._note_chunk(decoder, message, message["payload"])

        server.on_message(forward)

    def _note_chunk(self, decoder: Decoder, header: dict[str, Any], payload: bytes) -> None:
        index = header["chunk_index"]
        if header["frame_batch_index"] == 0:
            self.codecs.append(header["encoding"])
            self._num = 0
        for frame in decoder.decode(header, payload):
            self.frames[index, self._num] = frame
            self._num += 1


def keep_visible(page: Page) -> None:
    """Let the server believe that the page is visible: it sends on while the page is hidden."""

    def connect(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def forward(data: str | bytes) -> None:
            assert isinstance(data, bytes)
            if msgpack.decode(data).get("kind") != "visibility":
                server.send(data)

        socket.on_message(forward)

    page.route_web_socket(SOCKET, connect)
