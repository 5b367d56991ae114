"""A fake world, a fake socket, and a client that reads the wire."""

import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import anyio
import hypothesis
import numpy as np
import pytest
import uvicorn
from msgspec import msgpack
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from benchmarks.websocket_client import WebSocketClient
from tests.transport.fake_world import FakeWorld, png
from transport.app import build_app
from transport.connection.connection import Connection
from transport.paths import SOCKET_PATH
from transport.wire.limits import ClientLimits
from transport.worker_limits import CapacityLimits

# The machine does other work, too, so an example has no deadline.
hypothesis.settings.register_profile(
    "shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("shared")


class FakeFetcher:
    """Fetches `image` for every https URL once `answering` is set."""

    def __init__(self, image):
        self.image, self.asked, self.cancelled = image, [], False
        self.answering = threading.Event()

    async def fetch(self, source, *, field):
        if not (isinstance(source, str) and source.startswith("https:")):
            return source
        self.asked.append((source, field))
        try:
            while not self.answering.is_set():
                await anyio.sleep(0.005)
        except BaseException:
            self.cancelled = True
            raise
        return self.image


class FakeSocket:
    """Both ends of a socket. A send of `stuck_on` bytes or more waits for `release`."""

    def __init__(self, stuck_on=1 << 30):
        self.sent, self.closed_with = [], None
        self.stuck, self.release, self._stuck_on = anyio.Event(), anyio.Event(), stuck_on
        self.inbox, self._received = anyio.create_memory_object_stream(100)

    async def accept(self):
        pass

    async def receive(self):
        return {"type": "websocket.receive", "bytes": await self._received.receive()}

    async def send_bytes(self, data):
        self.sent.append(data)
        if len(data) >= self._stuck_on:
            self.stuck.set()
            await self.release.wait()

    async def close(self, code, reason):
        self.closed_with = (code, reason)

    async def serve(self, world):
        with self.inbox, self._received:
            capacity = CapacityLimits()
            await Connection(self, world, limits=ClientLimits(), capacity=capacity).run()


class Peer:
    """A client that checks that each header is followed by its payload."""

    def __init__(self, socket):
        self.socket = socket

    def send(self, **fields):
        self.socket.send_bytes(msgpack.encode(fields))

    def init(self, **fields):
        self.send(type="init", **fields)

    def event(self, kind, payload, **fields):
        self.send(type="event", kind=kind, payload=payload, **fields)

    def read(self):
        message = msgpack.decode(self.socket.receive_bytes())
        if message["type"] == "frame_batch_header":
            message["payload"] = self.socket.receive_bytes()
        if "payload" in message:
            assert len(message["payload"]) == message["total_size"]
        return message

    def read_until(self, kind):
        """The messages up to the first of this type, which is the last of them."""
        messages = [self.read()]
        while messages[-1]["type"] != kind:
            messages.append(self.read())
        return messages

    def close_of(self):
        """Reads until the server closes. Returns (code, reason)."""
        with pytest.raises(WebSocketDisconnect) as closed:
            while True:
                self.socket.receive_bytes()
        return closed.value.code, closed.value.reason


def dial_slowly(port, **init):
    """A client with a small receive window, and without pacing where it has extensions."""
    fields = {"realtime_output_pacing": False} | init
    return WebSocketClient(port, receive_buffer_bytes=65_536, **fields)


def make_scenery(num_frames=12, height=64, width=112):
    """Smooth ramps that move. They are easy for a codec, like the frames of a world."""
    down, across = np.mgrid[0:height, 0:width]
    frames = [
        np.stack([across * 2, down * 3, (across + down + 4 * t) % 200], axis=-1)
        for t in range(num_frames)
    ]
    return np.clip(np.stack(frames), 0, 255).astype(np.uint8)


@pytest.fixture
def scenery():
    return make_scenery


@pytest.fixture
def psnr():
    """Measures the PSNR of two arrays of pixels, in dB."""

    def measure(one, other):
        error = np.mean((one.astype(float) - other.astype(float)) ** 2)
        return 10 * np.log10(255**2 / max(error, 1e-9))

    return measure


@pytest.fixture
def make_world():
    return FakeWorld


@pytest.fixture
def make_socket():
    return FakeSocket


@pytest.fixture
def make_png():
    return png


@pytest.fixture
def fetcher():
    return FakeFetcher(png(color=(1, 2, 3)))


@pytest.fixture
def world():
    return FakeWorld()


@pytest.fixture
def serve():
    """Serves a world in this process. `.http` is a client, and `.dial()` opens a socket."""

    @contextmanager
    def serving(world, fetcher=None, access=None, **limits):
        app = build_app(
            world, limits=lambda: ClientLimits(**limits), access=access, fetcher=fetcher
        )
        with TestClient(app) as http:

            @contextmanager
            def dial():
                with http.websocket_connect(SOCKET_PATH) as socket:
                    yield Peer(socket)

            yield SimpleNamespace(http=http, dial=dial)

    return serving


@pytest.fixture
def listen():
    """Serves a world on a free loopback port, for clients with a real socket."""

    @contextmanager
    def listening(world, ping_s=20.0, access=None, **limits):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            app = build_app(world, limits=lambda: ClientLimits(**limits), access=access)
            config = uvicorn.Config(
                app,
                ws="websockets-sansio",
                ws_ping_interval=ping_s,
                ws_ping_timeout=ping_s,
                log_level="warning",
                log_config=None,  # records reach the root logger
            )
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            while not server.started:
                time.sleep(0.01)
            try:
                yield listener.getsockname()[1]
            finally:  # a thread that goes on would keep the process after a test that failed
                server.should_exit = True
                thread.join()

    return listening


@pytest.fixture
def dial_raw():
    return dial_slowly


@pytest.fixture
def server(world, serve):
    with serve(world) as serving:
        yield serving


@pytest.fixture
def peer(server):
    with server.dial() as one:
        yield one


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    from tests.transport.image_site import write_certificate  # here: its imports take a while

    path = tmp_path_factory.mktemp("tls") / "server.pem"
    write_certificate(path)
    return path


@pytest.fixture
def site(certificate):
    """A server of images, and fetchers for which it is behind every name."""
    from tests.transport.image_site import Site

    return Site(certificate)
