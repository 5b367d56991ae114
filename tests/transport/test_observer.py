"""The calls of an observer for sockets and clips, and their times."""

from itertools import pairwise

import anyio
import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from tests.transport.conftest import Peer
from tests.waiting import TIMEOUT_S, wait_until
from transport.access import Access
from transport.access_config import AccessConfig
from transport.app import build_app
from transport.http.clip import clip
from transport.observer import Client, client_of
from transport.paths import SOCKET_PATH
from transport.tokens import Tokens
from transport.wire.errors import Busy, WorldLost
from transport.wire.limits import ClientLimits
from transport.wire.messages import Queued, Starting
from transport.worker_limits import CapacityLimits

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


class Recorder:
    """An observer of both kinds that keeps its calls."""

    def __init__(self):
        self.calls, self.lags = [], []

    def connected(self, client, now_s):
        self.client = client
        self.calls.append(("connected", now_s))
        return self

    def lagged(self, lag_s):
        self.lags.append(lag_s)

    def asked(self, now_s):
        self.calls.append(("asked", now_s))

    def waits(self, status):
        self.calls.append(("waits", status))

    def opened(self, now_s, session_id, *, width, height):
        self.calls.append(("opened", now_s, session_id, width, height))

    def moved(self, state):
        self.calls.append(("moved", state))

    def sent(self, chunk):
        self.calls.append(("sent", chunk))

    def closed(self, now_s, end):
        self.calls.append(("closed", end))

    @property
    def names(self):
        return [name for name, *_ in self.calls]

    @property
    def chunks(self):
        return [call[1] for call in self.calls if call[0] == "sent"]

    @property
    def end(self):
        name, end = self.calls[-1]
        assert name == "closed" and self.names.count("closed") == 1
        return end


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def http(world, recorder):
    limits = ClientLimits(max_sockets=2)
    with TestClient(build_app(world, limits=lambda: limits, observer=recorder)) as client:
        yield client


def test_a_session_is_reported_from_its_handshake_to_its_close(http, world, recorder):
    world.news = [Starting(), Queued(1)]
    with http.websocket_connect(SOCKET_PATH, headers=HEADERS) as socket:
        peer = Peer(socket)
        peer.init(max_chunks=2, extensions=True)
        peer.read_until("session")
        for index in range(2):
            peer.read_until("chunk_stats")
            peer.send(type="ack", chunk_index=index)
        assert peer.close_of()[0] == 1000
    assert recorder.names == [
        *["connected", "asked", "waits", "waits", "opened", "sent", "sent", "closed"]
    ]
    assert (recorder.client.kind, recorder.client.trace_id) == ("stream", TRACE)
    assert recorder.calls[4][2:] == ("s1", 32, 16)
    end = recorder.end
    assert (end.session_id, end.label, end.code) == ("s1", "done", 1000)
    assert (end.num_chunks, end.num_frames) == (2, 21)
    assert sum(chunk.num_bytes for chunk in recorder.chunks) == end.num_bytes > 21 * 32 * 16 * 3


def test_the_times_of_a_chunk_are_in_order(http, recorder):
    with http.websocket_connect(SOCKET_PATH) as socket:
        peer = Peer(socket)
        peer.init(max_chunks=1)
        peer.close_of()
    (chunk,) = recorder.chunks
    times = [chunk.begun_s, chunk.denoised_s, chunk.decoded_s, chunk.first_byte_s, chunk.sent_s]
    assert all(later - time > -1e-6 for time, later in pairwise(times))  # sums of floats
    assert chunk.decoded_s <= chunk.encoded_s <= chunk.sent_s
    assert recorder.calls[1][1] <= chunk.begun_s
    assert chunk.media_s == pytest.approx(9 / 60)
    assert (chunk.stall_s, chunk.event_s, chunk.dropped_frames) == (0, None, 0)


def test_keys_are_timed_from_their_arrival_to_their_chunk(http, world, recorder):
    world.running.clear()  # the first chunk is not denoised before the keys have come
    with http.websocket_connect(SOCKET_PATH) as socket:
        peer = Peer(socket)
        peer.init(max_chunks=2, extensions=True, realtime_output_pacing=False)
        peer.read_until("session")
        assert world.stepping.wait(TIMEOUT_S)
        peer.event("camera_actions", [["w"]], event_id=7)
        peer.read_until("control_ack")
        world.running.set()
        peer.read_until("chunk_stats")
        peer.read_until("chunk_stats")
    first, second = recorder.chunks
    assert first.event_s is None
    assert first.begun_s < second.event_s < first.denoised_s < second.first_byte_s


def test_a_pause_and_its_end_are_reported(http, recorder):
    with http.websocket_connect(SOCKET_PATH) as socket:
        peer = Peer(socket)
        peer.init(extensions=True)
        for visibility, told in (("hidden", "paused"), ("visible", "resumed")):
            peer.event("visibility", visibility)
            peer.read_until(told)
    moves = [call[1] for call in recorder.calls if call[0] == "moved"]
    assert moves == ["paused", "active"]


def test_a_client_that_gets_no_world_is_reported_with_the_reason(http, world, recorder):
    world.on_open = Busy("every world is taken")
    with http.websocket_connect(SOCKET_PATH) as socket:
        peer = Peer(socket)
        peer.init()
        assert peer.close_of()[0] == 1013
    assert recorder.names == ["connected", "asked", "closed"]
    end = recorder.end
    assert (end.session_id, end.label, end.code) == (None, "busy", 1013)


def test_a_client_that_leaves_is_reported_and_logged_without_a_traceback(
    http, world, recorder, caplog
):
    caplog.set_level("INFO")
    with http.websocket_connect(SOCKET_PATH) as socket:
        Peer(socket).init()
        assert world.stepping.wait(TIMEOUT_S)
    wait_until(lambda: "closed" in recorder.names)
    assert (recorder.end.session_id, recorder.end.label) == ("s1", "client_left")
    opened, closed = [one for one in caplog.records if one.name.startswith("transport")]
    assert (closed.levelname, closed.exc_info) == ("INFO", None)
    assert " the client left: " in closed.getMessage()


def test_a_lost_world_is_reported_by_its_error(http, world, recorder):
    world.on_step = WorldLost("a rank died")
    with http.websocket_connect(SOCKET_PATH) as socket:
        peer = Peer(socket)
        peer.init()
        assert peer.close_of()[0] == 1012
    assert (recorder.end.session_id, recorder.end.label) == ("s1", "world_lost")


def test_a_socket_above_the_limit_is_reported(http, recorder):
    with http.websocket_connect(SOCKET_PATH), http.websocket_connect(SOCKET_PATH):
        recorder.calls.clear()
        with http.websocket_connect(SOCKET_PATH) as third:
            assert Peer(third).close_of()[0] == 1013
        assert recorder.names == ["connected", "closed"]
        assert (recorder.end.label, recorder.end.reason) == ("busy", "all 2 sockets are taken")


def test_a_clip_is_reported(http, recorder):
    answer = http.post("/v1/clips", json={"actions": "w-7"}, headers=HEADERS)
    assert answer.status_code == 200
    assert recorder.names == ["connected", "asked", "opened", "sent", "sent", "sent", "closed"]
    assert (recorder.client.kind, recorder.client.trace_id) == ("clip", TRACE)
    end = recorder.end
    assert (end.session_id, end.label, end.code) == ("s1", "done", 200)
    assert (end.num_chunks, end.num_frames, end.num_bytes) == (3, 25, len(answer.content))


@pytest.mark.parametrize(
    "fields, label", [({"actions": "q-1"}, "invalid_field"), ({}, "missing_field")]
)
def test_a_clip_that_is_refused_is_reported(http, recorder, fields, label):
    assert http.post("/v1/clips", json=fields).status_code == 400
    assert recorder.names == ["connected", "closed"]
    assert (recorder.end.label, recorder.end.code) == (label, 400)


@pytest.mark.parametrize("way", ["it disconnects", "the server cancels its request"])
def test_a_clip_whose_client_leaves_while_it_is_read_is_reported(world, recorder, way):
    async def receive():
        if way != "it disconnects":
            await anyio.sleep_forever()
        return {"type": "http.disconnect"}

    async def scenario():
        scope = {"type": "http", "method": "POST", "headers": []}
        with anyio.move_on_after(0.01):
            await clip(
                Request(scope, receive),
                world,
                limits=ClientLimits(),
                capacity=CapacityLimits(),
                observer=recorder,
            )

    anyio.run(scenario)
    assert recorder.names == ["connected", "closed"]
    assert (recorder.end.label, recorder.end.code) == ("client_left", 499)


def test_a_clip_without_a_token_is_reported(world, recorder, tmp_path):
    (tmp_path / "tokens.yaml").write_text("[]")
    tokens = Tokens(AccessConfig(tokens_file=str(tmp_path / "tokens.yaml")))
    with TestClient(build_app(world, access=Access(tokens=tokens), observer=recorder)) as http:
        assert http.get("/v1/world").status_code == 401
        assert recorder.names == []
        assert http.post("/v1/clips", json={"actions": "w-1"}).status_code == 401
    assert recorder.names == ["connected", "closed"]
    assert (recorder.end.label, recorder.end.code) == ("unauthorized", 401)


def test_a_clip_that_finds_no_world_is_reported(http, world, recorder):
    world.on_open = Busy("every world is taken")
    assert http.post("/v1/clips", json={"actions": "w-1"}).status_code == 503
    assert recorder.names == ["connected", "asked", "closed"]
    assert (recorder.end.session_id, recorder.end.label) == (None, "busy")


def test_the_lag_of_the_event_loop_is_reported(http, recorder):
    wait_until(lambda: len(recorder.lags) > 3)
    assert all(lag_s >= 0 for lag_s in recorder.lags)


def test_a_header_that_is_no_traceparent_is_no_trace():
    assert client_of({"traceparent": "00-1-2-3"}, kind="clip") == Client(kind="clip")
