import logging
import threading

import anyio
import pytest
from anyio import CapacityLimiter
from msgspec import msgpack

from transport.errors import Busy, Refused, WorldLost
from transport.limits import Limits
from transport.messages import Queued, Warming
from transport.play import play

FAST = {"extensions": True, "realtime_output_pacing": False}


class FakeSocket:
    """Both ends in one process; a send of `stuck_on` bytes or more waits for `release`."""

    def __init__(self, stuck_on=1 << 30):
        self.sent, self.closed_with = [], None
        self.stuck, self.release, self._stuck_on = anyio.Event(), anyio.Event(), stuck_on
        self.inbox, self._outbox = anyio.create_memory_object_stream(100)

    async def accept(self):
        pass

    async def receive(self):
        return {"type": "websocket.receive", "bytes": await self._outbox.receive()}

    async def send_bytes(self, data):
        self.sent.append(data)
        if len(data) >= self._stuck_on:
            self.stuck.set()
            await self.release.wait()

    async def close(self, code, reason):
        self.closed_with = (code, reason)
        self.inbox.close()
        self._outbox.close()


def play_on(socket, world):
    return play(socket, world, limits=Limits(), threads=CapacityLimiter(2))


def test_a_client_of_the_plain_wire_sees_the_plain_wire(peer, world):
    peer.init(max_chunks=2)
    first, stats, second, more_stats = (peer.read() for _ in range(4))
    assert [first["type"], stats["type"]] == ["frame_batch", "chunk_stats"]
    assert (first["num_frames"], second["num_frames"]) == (9, 12)
    assert (first["width"], first["height"], first["encoding"]) == (32, 16, "raw")
    assert first["payload"] == bytes([1]) * (9 * 16 * 32 * 3)
    assert second["payload"] == bytes([2]) * (12 * 16 * 32 * 3)
    assert (first["chunk_index"], second["chunk_index"]) == (0, 1)
    assert first["request_id"] == stats["request_id"] != second["request_id"]
    assert not {"event_id", "applied_controls"} & set(first)
    assert more_stats["chunk_index"] == 1
    assert peer.close_of() == (1000, "done")
    assert world.live == set()


def test_stats_are_whole_numbers(peer):
    peer.init(max_chunks=1)
    stats = peer.read_until("chunk_stats")[-1]
    times = [value for name, value in stats.items() if name.endswith("_ms")]
    assert len(times) == 8
    assert all(type(value) is int and value >= 0 for value in times)
    assert (stats["num_frames"], stats["num_batches"], stats["event_id"]) == (9, 1, None)
    assert stats["raw_bytes"] == stats["ws_payload_bytes"] == 9 * 16 * 32 * 3
    assert (stats["session_id"], stats["content_type"]) == ("s1", "application/x-raw-rgb")


def test_jpeg_comes_in_batches_of_six(peer):
    peer.init(max_chunks=1, realtime_output_format="jpeg")
    *batches, stats = peer.read_until("chunk_stats")
    assert [batch["num_frames"] for batch in batches] == [6, 3]
    assert [batch["content_type"] for batch in batches] == ["image/jpeg"] * 2
    assert stats["ws_payload_bytes"] == sum(batch["total_size"] for batch in batches)
    assert stats["raw_bytes"] == 9 * 16 * 32 * 3


def test_the_world_is_opened_as_init_says(peer, world, make_png):
    peer.init(
        prompt="snow",
        seed=5,
        first_frame=make_png(color=(9, 8, 7)),
        num_inference_steps=2,
        realtime_causal_kv_cache_num_frames=9,
        realtime_causal_sink_size=3,
    )
    peer.read()
    (spec,) = world.specs
    assert (spec.prompt, spec.seed, spec.num_steps, spec.window, spec.sink) == ("snow", 5, 2, 9, 3)
    assert (spec.width, spec.height) == (32, 16)
    assert spec.first_frame.shape == (16, 32, 3)
    assert (spec.first_frame == [9, 8, 7]).all()


def test_without_a_first_frame_the_first_opening_is_used(peer, world):
    peer.init()
    peer.read()
    assert (world.specs[0].first_frame == [10, 20, 30]).all()


def test_controls_and_prompts_reach_the_step_that_follows(peer, world):
    peer.init(condition_inputs={"camera_actions": [["w"], ["w", "l"]]}, **FAST)
    peer.read_until("chunk_stats")
    peer.event("prompt", "rain", event_id=4)
    peer.read_until("control_ack")
    peer.send(type="ack", chunk_index=0)
    while not any(prompt for _, prompt in world.steps):
        peer.send(type="ack", chunk_index=peer.read_until("chunk_stats")[-1]["chunk_index"])
    assert world.steps[0] == (["w", "wl", ""], None)
    assert [prompt for _, prompt in world.steps if prompt] == ["rain"]


def test_extensions_tell_what_was_opened_and_what_was_applied(world, serve):
    world.news = [Queued(2), Warming()]
    with serve(world) as server, server.dial() as peer:
        peer.init(max_chunks=3, condition_inputs={"camera_actions": [["w"]] * 4}, **FAST)
        assert peer.read() == {"type": "queued", "position": 2}
        assert peer.read() == {"type": "warming"}
        session = peer.read()
        assert (session["type"], session["session_id"]) == ("session", "s1")
        assert (session["width"], session["height"], session["fps"]) == (32, 16, 60)
        assert (session["first_chunk_frames"], session["chunk_frames"]) == (9, 12)
        assert session["limits"]["max_script_latent_frames"] == 512
        batch = peer.read()
        assert batch["applied_controls"] == {"actions": [["w"], ["w"], ["w"]], "event_ids": []}
        batch = peer.read_until("frame_batch")[-1]
        assert batch["applied_controls"] == {"actions": [["w"], [], []], "event_ids": []}
        peer.event("camera_actions", [["l"]], event_id=11)
        assert peer.read_until("control_ack")[-1] == {"type": "control_ack", "event_id": 11}
        peer.send(type="ack", chunk_index=1)
        batch = peer.read_until("frame_batch")[-1]
        assert batch["applied_controls"] == {"actions": [["l"], [], []], "event_ids": [11]}
        assert batch["event_id"] == 11


def test_the_plain_wire_hears_nothing_while_it_waits(world, serve):
    world.news = [Queued(2), Warming()]
    with serve(world) as server, server.dial() as peer:
        peer.init(max_chunks=1)
        peer.event("prompt", "rain", event_id=1)
        kinds = [message["type"] for message in peer.read_until("chunk_stats")]
        assert kinds == ["frame_batch", "chunk_stats"]


def test_two_chunks_without_an_ack_stop_the_world(peer, world):
    peer.init(**FAST)
    peer.read_until("chunk_stats")
    peer.read_until("chunk_stats")
    peer.event("prompt", "x", event_id=1)
    assert peer.read()["type"] == "control_ack"  # no frame came before it
    assert len(world.steps) == 2
    peer.send(type="ack", chunk_index=0)
    assert peer.read_until("chunk_stats")[-1]["chunk_index"] == 2


def test_a_client_that_stops_acknowledging_is_let_go(world, serve):
    with serve(world, ack_timeout_s=0.1) as server, server.dial() as peer:
        peer.init(**FAST)
        error = peer.read_until("error")[-1]
        assert (error["code"], error["content"]) == ("timeout", "no ack in 0.1 s")
        assert peer.close_of() == (1008, "no ack in 0.1 s")
    assert world.live == set()


def test_an_invalid_init_is_answered_and_another_may_follow(peer, world, make_png):
    peer.init(size="0x0")
    assert peer.read()["field"] == "size"
    peer.init(first_frame=b"no picture")
    assert peer.read()["field"] == "first_frame"
    peer.init(first_frame="/etc/passwd")
    assert "reads no files" in peer.read()["content"]
    peer.event("prompt", "rain")
    assert peer.read()["code"] == "out_of_order"
    peer.init(first_frame=make_png())
    assert peer.read()["type"] == "frame_batch"


def test_what_the_world_refuses_is_answered_and_another_init_may_follow(peer, world):
    world.on_open = Refused("no such window", field="realtime_causal_kv_cache_num_frames")
    peer.init()
    error = peer.read()
    assert (error["code"], error["content"]) == ("refused", "no such window")
    world.on_open = None
    peer.init()
    assert peer.read()["type"] == "frame_batch"


def test_a_text_frame_and_bad_bytes_are_answered(peer):
    peer.socket.send_text("hello")
    assert peer.read()["code"] == "text_frame"
    peer.socket.send_bytes(b"\xc1")
    assert peer.read()["code"] == "malformed"
    peer.send(type="fly")
    assert peer.read()["code"] == "unknown_type"
    peer.init()
    assert peer.read()["type"] == "frame_batch"


def test_a_bad_event_is_answered_and_the_session_goes_on(peer):
    peer.init(max_chunks=3)
    peer.event("camera_actions", [["q"]])
    error = peer.read_until("error")[-1]
    assert (error["code"], error["field"]) == ("invalid_field", "payload[0][0]")
    assert peer.close_of() == (1000, "done")


def test_a_full_house_is_told_to_come_later(peer, world):
    world.on_open = Busy("every place is taken")
    peer.init()
    assert peer.read() == {"type": "error", "content": "every place is taken", "code": "busy"}
    assert peer.close_of() == (1013, "every place is taken")


def test_a_lost_world_ends_its_socket_at_once(peer, world):
    peer.init()
    peer.read_until("chunk_stats")
    world.hold.clear()  # whatever step comes now does not come back
    world.lost_because = "a rank died"
    error = peer.read_until("error")[-1]
    assert (error["code"], error["content"]) == ("world_lost", "a rank died")
    assert peer.close_of() == (1012, "a rank died")
    assert world.live == set()


def test_a_step_may_say_that_the_world_is_lost(peer, world):
    world.on_step = WorldLost("restarting")
    peer.init()
    assert peer.read()["code"] == "world_lost"
    assert peer.close_of() == (1012, "restarting")


def test_an_unexpected_failure_is_logged_and_not_told(peer, world, caplog):
    world.on_step = ZeroDivisionError("secret")
    peer.init()
    error = peer.read()
    assert (error["code"], error["content"]) == ("internal", "internal error")
    assert peer.close_of() == (1011, "internal error")
    assert world.live == set()
    assert "secret" in caplog.text


def test_who_sends_no_init_is_let_go(world, serve):
    with serve(world, init_timeout_s=0.05) as server, server.dial() as peer:
        assert peer.read()["code"] == "timeout"
        assert peer.close_of() == (1008, "no init in 0.05 s")


@pytest.mark.parametrize("kind", ["init", "event"])
def test_a_message_over_the_limit_ends_the_socket(peer, world, kind):
    if kind == "init":
        peer.init(first_frame=bytes(8 * 1024 * 1024))
    else:
        peer.init()
        peer.event("prompt", "x" * 65_536)
    assert peer.read_until("error")[-1]["code"] == "too_large"
    code, reason = peer.close_of()
    assert code == 1009
    assert "expected at most" in reason
    assert world.live == set()


def test_a_client_that_never_gets_it_right_is_refused(peer):
    for _ in range(101):
        peer.send(type="fly" * 1000)
    assert [peer.read()["code"] for _ in range(101)] == ["unknown_type"] * 100 + ["too_many_errors"]
    code, reason = peer.close_of()
    assert code == 1008
    assert len(reason.encode()) <= 123


def test_leaving_before_init_costs_nothing(server, world):
    with server.dial():
        pass
    assert world.specs == []


def test_leaving_in_the_middle_of_a_step_frees_the_session(server, world):
    world.hold.clear()
    with server.dial() as peer:
        peer.init()
        assert world.stepping.wait(5)
        assert world.live == {"s1"}
    assert world.live == set()


def test_leaving_while_waiting_for_a_place_opens_nothing(world, serve):
    entered = threading.Event()

    async def open_never(spec, *, on_wait):
        entered.set()
        await anyio.sleep_forever()

    world.open = open_never
    with serve(world) as server, server.dial() as peer:
        peer.init()
        assert entered.wait(5)
    assert world.live == set()


def test_leaving_between_chunks_frees_the_session(server, world):
    with server.dial() as peer:
        peer.init()
        peer.read_until("chunk_stats")
    assert world.live == set()


def test_one_client_does_not_disturb_another(server, world):
    with server.dial() as one, server.dial() as other:
        one.init()
        other.init(max_chunks=3)
        other.read()
        for _ in range(101):
            one.send(type="fly")
        assert one.close_of()[0] == 1008
        assert other.close_of() == (1000, "done")


def test_a_thousand_events_never_come_between_a_header_and_its_payload(make_world, serve):
    world = make_world(size=(112, 64))  # 258 kB a chunk: header and payload apart
    with serve(world) as server, server.dial() as peer:
        peer.init(**FAST)
        for event_id in range(1000):
            peer.event("camera_actions", [["w"]], event_id=event_id)
        acked, chunks = [], 0
        while len(acked) < 1000 or chunks < 3:
            message = peer.read()  # which checks what follows a header
            if message["type"] == "control_ack":
                acked.append(message["event_id"])
            if message["type"] == "frame_batch_header":
                chunks += 1
                peer.send(type="ack", chunk_index=message["chunk_index"])
        assert acked == list(range(1000))


def test_the_send_of_a_chunk_overlaps_the_generation_of_the_next(make_world):
    world = make_world(size=(112, 64))

    async def scenario():
        socket = FakeSocket(stuck_on=65_536)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(play_on, socket, world)
            await socket.inbox.send(msgpack.encode({"type": "init", "max_chunks": 2} | FAST))
            await socket.stuck.wait()
            with anyio.fail_after(5):
                while len(world.steps) < 2:
                    await anyio.sleep(0.005)
            assert len(socket.sent) == 3  # session, header, and the payload that is stuck
            socket.release.set()
        assert socket.closed_with == (1000, "done")

    anyio.run(scenario)


def test_nothing_is_sent_after_a_header_but_its_payload_even_when_the_world_is_lost(make_world):
    world = make_world(size=(112, 64))

    async def scenario():
        socket = FakeSocket(stuck_on=65_536)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(play_on, socket, world)
            await socket.inbox.send(msgpack.encode({"type": "init"}))
            await socket.stuck.wait()
            world.lost_because = "a rank died"
        assert socket.closed_with == (1012, "a rank died")
        assert msgpack.decode(socket.sent[-2])["type"] == "frame_batch_header"
        assert len(socket.sent[-1]) == 9 * 64 * 112 * 3

    anyio.run(scenario)


def test_a_plain_client_is_paced_by_the_media_clock(make_world):
    world = make_world()

    async def scenario():
        socket = FakeSocket()
        started = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(play_on, socket, world)
            init = {"type": "init", "max_chunks": 4, "realtime_output_pacing": False}
            await socket.inbox.send(msgpack.encode(init))
        return anyio.current_time() - started

    # the fourth chunk starts 0.1 s before the first three have been shown: (9 + 12 + 12) / 60 s
    assert anyio.run(scenario) > 0.4


def test_a_session_leaves_two_lines_in_the_log(server, world, caplog):
    caplog.set_level(logging.INFO, logger="transport.play")
    with server.dial() as peer:
        peer.init(max_chunks=1, prompt="secret")
        assert peer.close_of()[0] == 1000
    opened, closed = (record.getMessage() for record in caplog.records)
    assert opened == "session s1 opened: 32x16 as raw"
    assert closed.startswith("session s1 closed, 1000 done: 1 chunks, 9 frames, 13824 bytes in ")
