import logging
import threading

import anyio
import pytest
from msgspec import msgpack
from starlette.websockets import WebSocketDisconnect

from tests.transport.connection.virtual_clock import serve_on_virtual_clock
from tests.waiting import TIMEOUT_S
from transport.connection.close import close_reason_for
from transport.wire.errors import Busy, Refused, WorldFailed, WorldLost

FAST = {"extensions": True, "realtime_output_pacing": False}


def test_a_client_that_stops_acknowledging_is_closed(world, serve):
    with serve(world, ack_timeout_s=0.1) as server, server.dial() as peer:
        peer.init(**FAST)
        error = peer.read_until("error")[-1]
        assert (error["code"], error["content"]) == ("timeout", "no ack within 0.1 s")
        assert peer.close_of() == (1008, "no ack within 0.1 s")
    assert world.live == world.detached == {"s1"}


def test_repeating_an_old_ack_extends_no_timeout(world, serve):
    with serve(world, ack_timeout_s=0.4) as server, server.dial() as peer:
        peer.init(**FAST)
        repeating = threading.Event()

        def repeat():
            while not repeating.wait(0.05):
                peer.send(type="ack", chunk_index=0)

        repeater = threading.Thread(target=repeat)
        repeater.start()
        assert peer.close_of() == (1008, "no ack within 0.4 s")
        repeating.set()
        repeater.join()
    assert world.live == world.detached == {"s1"}


def test_a_client_without_a_free_world_is_closed_as_busy(peer, world):
    world.on_open = Busy("every world is taken", retry_after_s=40)
    peer.init()
    assert peer.read() == {
        "type": "error",
        "content": "every world is taken",
        "code": "busy",
        "retry_after_s": 40,
    }
    assert peer.close_of() == (1013, "every world is taken")


def test_a_lost_world_ends_its_socket_at_once(peer, world):
    peer.init()
    peer.read_until("chunk_stats")
    world.running.clear()  # the next step does not return
    world.lost_because = "a rank died"
    error = peer.read_until("error")[-1]
    assert (error["code"], error["content"]) == ("world_lost", "a rank died")
    assert peer.close_of() == (1012, "a rank died")
    assert world.live == set()


def test_a_step_may_raise_that_the_world_is_lost(peer, world):
    world.on_step = WorldLost("restarting")
    peer.init()
    assert peer.read()["code"] == "world_lost"
    assert peer.close_of() == (1012, "restarting")


def test_an_unexpected_failure_is_logged_and_not_sent(peer, world, caplog):
    world.on_step = ZeroDivisionError("secret")
    peer.init()
    error = peer.read()
    assert (error["code"], error["content"]) == ("internal", "internal error")
    assert peer.close_of() == (1011, "internal error")
    assert world.live == set()
    assert "secret" in caplog.text


def test_the_text_of_a_failed_world_is_sent(peer, world):
    world.on_step = WorldFailed()
    peer.init()
    error = peer.read()
    assert (error["code"], error["content"]) == ("internal", "the world failed")
    assert peer.close_of() == (1011, "the world failed")


def test_a_client_without_an_init_is_closed(world, serve):
    with serve(world, init_timeout_s=0.05) as server, server.dial() as peer:
        assert peer.read()["code"] == "timeout"
        assert peer.close_of() == (1008, "no valid init within 0.05 s")


def test_invalid_images_extend_no_timeout(world, monkeypatch):
    bad = {"type": "init", "first_frame": b"not an image"}
    events = [(at_s, bad) for at_s in range(1, 60)]
    socket = serve_on_virtual_clock(world, bad, monkeypatch, seconds=60, events=events)
    *answers, (ended_s, last) = socket.received
    assert {error["code"] for _, error in answers} == {"invalid_field"}
    assert (ended_s, last["code"]) == (30, "timeout")


def test_the_wait_for_a_world_does_not_count_against_the_init(world, monkeypatch):
    open_world = world.open

    async def refuse_slowly(spec, image, *, on_wait):
        world.open = open_world
        await anyio.sleep(40)
        raise Refused("no such world")

    world.open = refuse_slowly
    events = [(41, {"type": "init", "max_chunks": 1})]
    socket = serve_on_virtual_clock(world, {}, monkeypatch, seconds=60, events=events)
    error, batch, _ = (message for _, message in socket.received)
    assert (error["code"], batch["type"]) == ("refused", "frame_batch")


@pytest.mark.parametrize("kind", ["init", "event"])
def test_a_message_over_the_limit_ends_the_socket(peer, world, kind):
    if kind == "init":
        peer.init(first_frame=bytes(16 * 1024 * 1024))
    else:
        peer.init()
        peer.event("prompt", "x" * 65_536)
    assert peer.read_until("error")[-1]["code"] == "too_large"
    code, reason = peer.close_of()
    assert code == 1009
    assert "expected at most" in reason
    assert world.live == set()


def test_a_client_that_sends_too_many_invalid_messages_is_refused(peer):
    for _ in range(500):  # in less than four minutes
        peer.send(type="fly" * 1000)
    codes = [peer.read()["code"] for _ in range(100)]
    assert codes == ["unknown_type"] * 100
    while (code := peer.read()["code"]) == "unknown_type":
        pass
    assert code == "too_many_errors"
    code, reason = peer.close_of()
    assert code == 1008
    assert len(reason.encode()) <= 123


def test_leaving_before_init_opens_nothing(server, world):
    with server.dial():
        pass
    assert world.specs == []


def test_leaving_in_the_middle_of_a_step_frees_the_session(server, world):
    world.running.clear()
    with server.dial() as peer:
        peer.init()
        assert world.stepping.wait(TIMEOUT_S)
        assert world.live == {"s1"}
    assert world.live == set()


def test_leaving_the_queue_opens_nothing(world, serve):
    entered = threading.Event()

    async def open_never(spec, image, *, on_wait):
        entered.set()
        await anyio.sleep_forever()

    world.open = open_never
    with serve(world) as server, server.dial() as peer:
        peer.init()
        assert entered.wait(TIMEOUT_S)
    assert world.live == set()


def test_leaving_between_chunks_frees_the_session(server, world):
    with server.dial() as peer:
        peer.init()
        peer.read_until("chunk_stats")
    assert world.live == set()


def test_a_lost_world_sends_nothing_between_a_header_and_its_payload(make_socket, make_world):
    world = make_world(size=(112, 64))

    async def scenario():
        socket = make_socket(stuck_on=65_536)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(socket.serve, world)
            await socket.inbox.send(msgpack.encode({"type": "init"}))
            await socket.stuck.wait()
            world.lost_because = "a rank died"
        assert socket.closed_with == (1012, "a rank died")
        assert msgpack.decode(socket.sent[-2])["type"] == "frame_batch_header"
        assert len(socket.sent[-1]) == 9 * 64 * 112 * 3

    anyio.run(scenario)


def test_a_session_leaves_two_lines_in_the_log(server, world, caplog):
    caplog.set_level(logging.INFO, logger="transport.session_log")
    with server.dial() as peer:
        peer.init(max_chunks=1, prompt="secret")
        assert peer.close_of()[0] == 1000
    opened, closed = (record.getMessage() for record in caplog.records)
    assert opened == "session s1 opened: 32x16 as raw"
    assert closed.startswith("session s1 closed, 1000 done: 1 chunks, 9 frames, 14087 bytes in ")


def test_a_cancelled_socket_leaves_its_closing_line_too(make_socket, world, caplog):
    caplog.set_level(logging.INFO, logger="transport.session_log")

    async def scenario():
        socket = make_socket(stuck_on=1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(socket.serve, world)
            await socket.inbox.send(msgpack.encode({"type": "init"}))
            await socket.stuck.wait()
            tasks.cancel_scope.cancel()

    anyio.run(scenario)
    closed = caplog.records[-1].getMessage()
    assert closed.startswith("session s1 closed, 1006 cancelled: 0 chunks, 0 frames, 0 bytes in ")
    assert world.live == set()


@pytest.mark.parametrize("codes", [(1001, 1006), (1006, 1001)])
def test_a_client_that_closes_while_a_send_fails_has_closed(codes):
    """A send that failed has 1006, as a socket has that was lost."""
    ends = [WebSocketDisconnect(code) for code in codes]
    end = close_reason_for(ExceptionGroup("tasks", [ExceptionGroup("inner", ends[:1]), ends[1]]))
    assert end.code == 1001 and end.client_left and not end.keeps_world
    lost = close_reason_for(ExceptionGroup("tasks", [WebSocketDisconnect(1006)]))
    assert lost.code == 1006 and lost.keeps_world
