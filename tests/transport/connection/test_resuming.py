"""Sockets that are lost, and sessions that go on with another one."""

import asyncio

import anyio
import pytest
from msgspec import msgpack

from tests.waiting import wait_until
from transport.connection.close import CANCELLED, CloseReason, HandedOver, close_reason_for
from transport.connection.connection import Connection
from transport.wire.errors import Refused, SessionEnded, TakenOver, WorldLost
from transport.wire.limits import ClientLimits
from transport.wire.messages import Moved, Queued
from transport.worker_limits import CapacityLimits

FAST = {"extensions": True, "realtime_output_pacing": False}


def lose(peer, world, *, code=1006):
    """Ends a socket with this code, and waits until the server has noticed."""
    peer.socket.close(code)
    wait_until(lambda: world.detached or not world.live)


def begin(peer, **init):
    """Opens a session, and returns its message after the first chunk."""
    peer.init(**FAST, **init)
    session = peer.read_until("chunk_stats")[0]
    assert session["type"] == "session"
    return session


@pytest.mark.parametrize("code, waits", [(1000, False), (1001, False), (1005, True), (1006, True)])
def test_a_world_waits_for_a_client_that_has_not_closed(server, world, code, waits):
    with server.dial() as peer:
        session = begin(peer)
        assert session["resume_token"] and session["resume_grace_s"] == 60.0
        lose(peer, world, code=code)
        assert world.detached == ({"s1"} if waits else set())
        assert world.live == world.detached


def test_no_world_waits_for_a_plain_client(server, world):
    with server.dial() as peer:
        peer.init()
        peer.read_until("chunk_stats")
        lose(peer, world)
    assert (world.live, world.detached, world.sessions) == (set(), set(), {})


def test_a_session_goes_on_with_its_token(server, world):
    with server.dial() as peer:
        session = begin(peer, seed=5, prompt="fog")
        lose(peer, world)
    with server.dial() as peer:
        world.news = [Queued(1)]
        peer.init(resume=session["resume_token"], prompt="snow", **FAST)
        assert peer.read()["type"] == "queued"
        resumed, last_frame, batch = (peer.read() for _ in range(3))
        assert (resumed["session_id"], resumed["seed"]) == ("s1", 5)
        assert resumed["resume_token"] != session["resume_token"]
        assert last_frame["type"] == "last_frame"
        assert batch["chunk_index"] == 0, "the wire of a socket counts from 0"
        assert batch["world_chunk_index"] == resumed["world_chunk_index"] >= 1
        assert batch["num_frames"] == 12
        wait_until(lambda: "snow" in [prompt for _, prompt in world.steps])
        assert world.detached == set()
    wait_until(lambda: not world.live)


def test_a_session_that_goes_on_names_the_first_chunk_that_can_be_turned_back_to(server, world):
    with server.dial() as peer:
        session = begin(peer)
        assert session["earliest_chunk_index"] == 0
        lose(peer, world)
    world.earliest_chunk = 1
    with server.dial() as peer:
        peer.init(resume=session["resume_token"], **FAST)
        assert peer.read()["earliest_chunk_index"] == 1


def test_a_token_that_opens_nothing_is_answered_and_a_snapshot_may_follow(server, world):
    with server.dial() as peer:
        begin(peer)
        peer.event("save", None)
        data = peer.read_until("snapshot")[-1]["data"]
    with server.dial() as peer:
        peer.init(resume="group.s1.guessed", **FAST)
        error = peer.read()
        assert (error["code"], error["field"]) == ("session_gone", "resume")
        peer.init(snapshot=data, **FAST)
        assert peer.read()["world_chunk_index"] >= 1


def test_the_older_socket_of_a_session_is_closed_by_name(server, world):
    with server.dial() as older, server.dial() as newer:
        session = begin(older)
        newer.init(resume=session["resume_token"], **FAST)
        assert newer.read()["session_id"] == session["session_id"]
        error = older.read_until("error")[-1]
        reason = "another socket goes on with this session"
        assert (error["code"], error["content"]) == ("taken_over", reason)
        assert older.close_of() == (1000, reason)
        newer.read_until("chunk_stats")
        assert world.live == {"s1"} and world.detached == set()


def test_a_moved_world_is_a_notice(server, world):
    with server.dial() as peer, server.dial() as plain:
        begin(peer)
        world.warnings = [Moved(3)]
        peer.send(type="ack", chunk_index=0)
        moved = peer.read_until("moved")[-1]
        assert moved["world_chunk_index"] == 3
        world.warnings = [Moved(1)]
        plain.init(max_chunks=2)
        kinds = [message["type"] for message in plain.read_until("chunk_stats")]
        assert "moved" not in kinds


class LeavingSocket:
    """A client that has closed with this code when the first frames are sent."""

    def __init__(self, code):
        self.code, self.inbox = code, asyncio.Queue()
        self.inbox.put_nowait(
            {"type": "websocket.receive", "bytes": msgpack.encode({"type": "init"} | FAST)}
        )

    async def accept(self):
        pass

    async def receive(self):
        return await self.inbox.get()

    async def send_bytes(self, data):
        if msgpack.decode(data)["type"] != "session":
            self.inbox.put_nowait({"type": "websocket.receive", "bytes": b"the last word"})
            self.inbox.put_nowait({"type": "websocket.disconnect", "code": self.code})
            raise RuntimeError("the client has left")


@pytest.mark.parametrize("code, waits", [(1000, False), (1006, True)])
def test_the_code_of_a_client_that_has_left_is_read_after_a_failed_send(world, code, waits):
    async def scenario():
        connection = Connection(
            LeavingSocket(code), world, limits=ClientLimits(), capacity=CapacityLimits()
        )
        await connection.run()

    anyio.run(scenario)
    assert (world.live == {"s1"}) is (world.detached == {"s1"}) is waits


# ---- a process that goes away


def test_a_client_is_told_to_reconnect_after_its_chunk(server, world):
    with server.dial() as peer, server.dial() as plain:
        session = begin(peer)
        plain.init()
        plain.read_until("chunk_stats")
        world.drains_because = "the server is replaced"
        told = peer.read_until("reconnect")
        assert told[-1]["content"] == "the server is replaced"
        batches = sum(message["type"].startswith("frame_batch") for message in told)
        assert batches == sum(message["type"] == "chunk_stats" for message in told), "whole chunks"
        assert peer.close_of() == (1012, "the server is replaced")
        wait_until(lambda: world.detached == {session["session_id"]})
        plain.read_until("chunk_stats")  # it stays
        world.drains_because = None
        with server.dial() as again:
            again.init(resume=session["resume_token"], **FAST)
            assert again.read()["session_id"] == session["session_id"]


def test_a_paused_client_is_told_to_reconnect(server, world):
    with server.dial() as peer:
        begin(peer)
        peer.event("visibility", "hidden")
        peer.read_until("paused")
        world.drains_because = "replaced"
        peer.read_until("reconnect")
        assert peer.close_of() == (1012, "replaced")


def test_a_client_that_acknowledges_nothing_is_told_to_reconnect(server, world):
    with server.dial() as peer:
        peer.init(**FAST)
        for _ in range(2):
            peer.read_until("chunk_stats")
        world.drains_because = "replaced"
        assert peer.read()["type"] == "reconnect"


@pytest.mark.parametrize("extensions", [True, False])
def test_a_process_that_goes_away_opens_worlds_for_plain_clients_alone(server, world, extensions):
    world.drains_because = "replaced"
    with server.dial() as peer:
        peer.init(extensions=extensions, max_chunks=1)
        if not extensions:
            assert peer.read()["type"] == "frame_batch"
            return
        assert peer.read_until("reconnect")
        assert peer.close_of() == (1012, "replaced")
        wait_until(lambda: world.live == world.detached)


def test_a_client_in_line_is_told_to_reconnect(make_world, serve):
    world = make_world()

    async def wait_for_ever(spec, image, *, on_wait):
        while True:
            await on_wait(Queued(1))
            await anyio.sleep(0.005)

    world.open = wait_for_ever
    with serve(world) as server, server.dial() as peer:
        peer.init(**FAST)
        peer.read()
        world.drains_because = "replaced"
        assert peer.read_until("reconnect")[-1]["content"] == "replaced"
        assert peer.close_of() == (1012, "replaced")


# ---- what keeps a world


@pytest.mark.parametrize(
    "end, keeps",
    [
        (CANCELLED, True),  # Serve's proxy died, or this replica is ended
        (close_reason_for(HandedOver("replaced")), True),
        (close_reason_for(TakenOver("another")), False),
        (close_reason_for(Refused("no ack", code="timeout", close_code=1008)), True),  # a cut line
        (close_reason_for(SessionEnded("idle")), False),
        (close_reason_for(WorldLost("died")), False),
        (CloseReason(code=1000, reason="done"), False),
        (CloseReason(code=1006, reason="the client left", client_left=True), True),
        (CloseReason(code=1001, reason="the client left", client_left=True), False),
    ],
)
def test_a_world_is_kept_for_a_socket_that_was_lost(end, keeps):
    assert end.keeps_world is keeps
