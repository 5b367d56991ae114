"""Save, fork, rewind and reset on a socket with a fake world."""

import io
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from tests.transport.connection.virtual_clock import serve_on_virtual_clock, take_time
from transport.codecs.decoder import Decoder
from transport.wire.errors import Refused, WorldLost

FAST = {"extensions": True, "realtime_output_pacing": False}
LATEST = {"extensions": True, "realtime_delivery": "latest"}
FPS = 16


def is_batch(message):
    return message["type"].startswith("frame_batch")


def read_until(peer, kind):
    """As `peer.read_until`, and acknowledges each chunk."""
    messages = []
    while not messages or messages[-1]["type"] != kind:
        messages.append(peer.read())
        if messages[-1]["type"] == "chunk_stats":
            peer.send(type="ack", chunk_index=messages[-1]["chunk_index"])
    return messages


def play(peer, num_chunks):
    """All messages until so many chunks have come."""
    return [one for _ in range(num_chunks) for one in read_until(peer, "chunk_stats")]


def batches_of(messages):
    return [message for message in messages if is_batch(message)]


def test_every_header_has_the_index_of_its_chunk_in_the_world(peer):
    peer.init(**FAST)
    session, *rest = play(peer, 3)
    assert session["world_chunk_index"] == 0
    seen = [(one["chunk_index"], one["world_chunk_index"]) for one in batches_of(rest)]
    assert seen == [(0, 0), (1, 1), (2, 2)]


def test_a_saved_world_goes_on_in_another_session(server, world):
    with server.dial() as peer:
        peer.init(seed=5, prompt="a hill", **FAST)
        play(peer, 3)
        peer.event("save", None, event_id=7)
        snapshot = read_until(peer, "snapshot")[-1]
        assert snapshot["event_id"] == 7
        index = snapshot["world_chunk_index"]
        assert index >= 3
        play(peer, 1)  # it goes on
    with server.dial() as peer:
        peer.init(snapshot=snapshot["data"], prompt="snow", **FAST)
        session, last_frame, *rest = play(peer, 2)
        assert (session["type"], session["world_chunk_index"]) == ("session", index)
        assert (session["seed"], session["width"]) == (5, 32)
        assert (last_frame["type"], last_frame["content_type"]) == ("last_frame", "image/jpeg")
        shown = np.asarray(Image.open(io.BytesIO(last_frame["data"])))
        assert (shown.shape, shown.min(), shown.max()) == ((16, 32, 3), index, index)
        batches = batches_of(rest)
        assert [one["world_chunk_index"] for one in batches] == [index, index + 1]
        assert [one["num_frames"] for one in batches] == [12, 12], "no first chunk of a new world"
        assert set(batches[0]["payload"]) == {index + 1}
        assert (world.steps[-1][1], [p for _, p in world.steps if p]) == (None, ["snow"])


def test_a_fork_opens_any_number_of_times(server, world):
    with server.dial() as peer:
        peer.init(**FAST)
        play(peer, 2)
        peer.event("fork", None, event_id=7)
        forked = read_until(peer, "forked")[-1]
        assert (forked["event_id"], forked["expires_in_s"]) == (7, 600)
        for _ in range(2):
            with server.dial() as other:
                other.init(fork=forked["token"], **FAST)
                session = other.read()
                assert session["world_chunk_index"] == forked["world_chunk_index"]
        world.forks.clear()
        with server.dial() as late:
            late.init(fork=forked["token"], **FAST)
            error = late.read()
            assert (error["code"], error["field"]) == ("session_gone", "fork")
            late.init(max_chunks=1)
            assert is_batch(late.read()), "another init may follow"


def test_a_bad_snapshot_is_answered_and_another_init_may_follow(peer):
    peer.init(snapshot=b"no snapshot", **FAST)
    error = peer.read()
    assert (error["code"], error["field"]) == ("refused", "snapshot")
    peer.init(max_chunks=1, **FAST)
    assert peer.read()["type"] == "session"


def rewound(peer):
    """The messages after a rewind: the answer, and the first batch behind it."""
    messages = read_until(peer, "rewound")
    while not is_batch(messages[-1]):
        messages.append(peer.read())
    index = next(i for i, one in enumerate(messages) if one["type"] == "rewound")
    return messages[:index], messages[index], messages[-1]


def test_a_rewind_turns_the_world_back_and_the_wire_counts_on(peer, world):
    peer.init(seed=3, **FAST)
    play(peer, 4)
    peer.event("rewind", {"chunk_index": 2}, event_id=9)
    before, answer, batch = rewound(peer)
    assert answer == {"type": "rewound", "event_id": 9, "world_chunk_index": 2, "seed": 3}
    assert batch["world_chunk_index"] == 2
    newest = max([3, *(one["chunk_index"] for one in batches_of(before))])
    assert batch["chunk_index"] == newest + 1
    assert batch["request_id"] == f"s1-{batch['chunk_index']}"
    assert batch["num_frames"] == 12 and set(batch["payload"]) == {3}


@pytest.mark.parametrize("payload", [{"chunk_index": 0}, {"seconds": 600}])
def test_a_world_that_is_turned_back_to_its_begin_has_a_first_chunk(peer, payload):
    peer.init(**FAST)
    play(peer, 3)
    peer.event("rewind", payload)
    _, answer, batch = rewound(peer)
    assert (answer["world_chunk_index"], batch["world_chunk_index"]) == (0, 0)
    assert (batch["num_frames"], set(batch["payload"])) == (9, {1})


@pytest.mark.parametrize("seconds, num_chunks", [(0.1, 1), (12 / 60, 1), (13 / 60, 2), (1.0, 5)])
def test_seconds_of_a_rewind_are_media_seconds(peer, world, seconds, num_chunks):
    world.earliest_chunk = 1
    peer.init(**FAST)
    play(peer, 8)
    peer.event("save", None)
    now = read_until(peer, "snapshot")[-1]["world_chunk_index"]
    world.running.clear()  # at most one more step
    peer.event("rewind", {"seconds": seconds})
    world.running.set()
    answer = read_until(peer, "rewound")[-1]
    assert answer["world_chunk_index"] in {max(1, n - num_chunks) for n in (now, now + 1, now + 2)}


def test_an_index_out_of_the_history_is_refused_and_the_world_goes_on(peer, world):
    world.earliest_chunk = 2
    peer.init(**FAST)
    play(peer, 4)
    for index in (1, 500):
        peer.event("rewind", {"chunk_index": index}, event_id=index)
        error = read_until(peer, "error")[-1]
        assert (error["code"], error["field"]) == ("refused", "payload.chunk_index")
        assert error["event_id"] == index
        assert f"{index}, expected 2 to " in error["content"]
    assert world.commands == []
    play(peer, 2)


def test_a_reset_begins_the_world_anew(peer, world):
    peer.init(seed=3, prompt="fog", condition_inputs={"camera_actions": [["w"]] * 500}, **FAST)
    play(peer, 3)
    peer.event("reset", {"seed": 8, "prompt": "snow"}, event_id=9)
    _, answer, batch = rewound(peer)
    assert answer == {"type": "rewound", "event_id": 9, "world_chunk_index": 0, "seed": 8}
    assert (batch["num_frames"], batch["world_chunk_index"]) == (9, 0)
    assert batch["applied_controls"]["actions"] == [[], [], []], "its script is over"
    assert world.commands == [("s1", "reset", 8, "snow")]
    peer.event("reset", None)
    assert read_until(peer, "rewound")[-1]["seed"] == 8, "the seed stays"
    peer.event("reset", {"seed": -1})
    drawn = read_until(peer, "rewound")[-1]["seed"]
    assert drawn >= 0 and world.commands[1:] == [
        ("s1", "reset", 8, None),
        ("s1", "reset", drawn, None),
    ]


def test_a_refused_command_names_its_event_and_the_world_goes_on(peer, world):
    peer.init(**FAST)
    play(peer, 2)
    world.on_command = Refused("no room")
    for kind in ("save", "fork", "reset"):
        peer.event(kind, None, event_id=5)
        error = read_until(peer, "error")[-1]
        assert (error["code"], error["event_id"]) == ("refused", 5)
    play(peer, 2)


def test_a_world_that_is_lost_by_a_command_ends_the_session(peer, world):
    peer.init(**FAST)
    world.on_command = WorldLost("its group died")
    peer.event("save", None)
    assert peer.close_of() == (1012, "its group died")
    assert world.live == set()


def test_commands_behind_the_last_chunk_are_carried_out(peer, world):
    world.running.clear()
    peer.init(max_chunks=1, **FAST)
    read_until(peer, "session")
    for event_id in range(2):
        peer.event("save", None, event_id=event_id)
        read_until(peer, "control_ack")
    world.running.set()
    answered = [read_until(peer, "snapshot")[-1]["event_id"] for _ in range(2)]
    assert answered == [0, 1]
    assert peer.close_of() == (1000, "done")


def test_h264_goes_on_with_a_key_frame_and_its_media_clock(make_world, scenery, serve):
    world = make_world(size=(112, 64))
    world.paint = lambda shape, index: scenery(shape[0])
    with serve(world) as server, server.dial() as peer:
        peer.init(realtime_output_format="h264", **FAST)
        older = batches_of(play(peer, 3))
        assert [one["key_frame"] for one in older] == [True] + [False] * (len(older) - 1)
        peer.event("rewind", {"chunk_index": 1})
        before, _, batch = rewound(peer)
        assert batch["key_frame"]
        times = [one["timestamp_us"] for one in [*older, *batches_of(before), batch]]
        assert times == sorted(set(times)), "the decoder's clock never goes back"
        decoder = Decoder()
        assert decoder.decode(batch, batch["payload"]).shape == (1, 64, 112, 3)


def test_a_client_that_cuts_over_may_leave_out_the_old_course(peer):
    peer.init(realtime_cut_over=True, **FAST)
    play(peer, 3)
    peer.event("rewind", {"chunk_index": 1})
    _, _, batch = rewound(peer)
    assert batch["cut_over"]


def test_a_rewind_waits_for_no_ack_and_drops_what_waits_for_one(server, world):
    """In `latest` mode unsent chunks are replaced while acks are missing."""
    with server.dial() as peer:
        peer.init(**LATEST)
        read_until(peer, "session")
        while len(world.steps) < 5:
            time.sleep(0.005)
        peer.event("rewind", {"chunk_index": 1}, event_id=2)
        messages = read_until(peer, "rewound")
        sent = {one["chunk_index"] for one in batches_of(messages)}
        peer.send(type="ack", chunk_index=max(sent))
        messages = read_until(peer, "chunk_stats")
        batch = batches_of(messages)[0]
        assert batch["world_chunk_index"] >= 1
        assert batch["dropped_frames"] >= 12
        assert batch["chunk_index"] - max(sent) > 1, "the dropped ones have indices, too"


@pytest.mark.parametrize("kind", ["save", "fork"])
def test_a_snapshot_waits_for_the_frames_of_the_last_chunk(server, world, kind):
    answer = {"save": "snapshot", "fork": "forked"}[kind]
    world.decoding.clear()
    with server.dial() as peer:
        peer.init(**FAST)
        while not world.steps:
            time.sleep(0.005)
        peer.event(kind, None, event_id=4)
        read_until(peer, "control_ack")
        assert world.commands == []
        world.decoding.set()
        assert read_until(peer, answer)[-1]["world_chunk_index"] >= 1


# ---- on a virtual clock


@pytest.fixture
def serve_timed(make_world, monkeypatch):
    def run(events, *, seconds, init=None, acknowledges=True, command_s=0.0, **limits):
        world = make_world()
        sessions = take_time(world, fps=FPS, denoising_s=0.4, decoding_s=0.3, command_s=command_s)
        socket = serve_on_virtual_clock(
            world,
            {"fps": FPS, "extensions": True} | (init or {}),
            monkeypatch,
            seconds=seconds,
            events=events,
            acknowledges=acknowledges,
            **limits,
        )
        return socket, sessions[0]

    return run


def test_a_save_wakes_no_session_that_is_paused(serve_timed):
    events = [(30, {"kind": "save"}), (31, {"kind": "save"})]
    socket, session = serve_timed(events, seconds=60, idle_after_s=10)
    kinds = [message["type"] for _, message in socket.received]
    assert kinds.count("snapshot") == 2 and "resumed" not in kinds
    assert [at_s for at_s, message in socket.received if is_batch(message)][-1] < 15
    assert len(session.pauses) == 3, "each time the world is paused again"


def test_a_rewind_wakes_a_session_that_is_paused(serve_timed):
    socket, _ = serve_timed(
        [(30, {"kind": "rewind", "payload": {"seconds": 2}})], seconds=40, idle_after_s=10
    )
    kinds = [message["type"] for _, message in socket.received]
    assert kinds.count("resumed") == kinds.count("rewound") == 1
    after = [at_s for at_s, message in socket.received if is_batch(message) and at_s > 20]
    assert 30.5 <= after[0] < 31


def test_the_time_of_a_rewind_is_no_time_of_a_chunk(serve_timed):
    events = [(5, {"kind": "rewind", "payload": {"seconds": 1}})]
    socket, _ = serve_timed(events, seconds=20, command_s=4.0)
    stats = [message for _, message in socket.received if message["type"] == "chunk_stats"]
    assert max(one["chunk_total_ms"] for one in stats) < 2000
    assert not [message for _, message in socket.received if message["type"] == "paced"]


def test_saves_extend_no_wait_for_an_ack(serve_timed):
    events = [(at_s, {"kind": "save"}) for at_s in range(1, 60)]
    socket, _ = serve_timed(events, seconds=100, acknowledges=False, ack_timeout_s=10)
    assert socket.closed_with == (1008, "no ack within 10 s")
    assert max(at_s for at_s, _ in socket.received) < 15


def test_saves_of_a_world_that_waits_come_once_a_second(serve_timed):
    events = [(30, {"kind": "save", "event_id": num}) for num in range(12)]
    socket, session = serve_timed(events, seconds=60, idle_after_s=10)
    times = [at_s for at_s, _ in session.commands]
    assert [late - early for early, late in pairwise(times)] == [pytest.approx(1)] * 8
    refused = [message for _, message in socket.received if message["type"] == "error"]
    assert {one["code"] for one in refused} == {"queue_full"}
    assert len(refused) + len(times) == 12, "every one is answered"


def test_a_snapshot_is_read_beside_the_event_loop(server, world):
    """Untrusted, it may take long: the other sockets go on."""
    on_wait = world._wait
    loops = []

    async def wait(send):
        loops.append(threading.get_ident())
        await on_wait(send)

    world._wait = wait
    with server.dial() as peer:
        peer.init(**FAST)
        play(peer, 1)
        peer.event("save", None, event_id=1)
        data = read_until(peer, "snapshot")[-1]["data"]
        with server.dial() as other:
            other.init(snapshot=data, **FAST)
            assert other.read()["type"] == "session"
    assert len(set(loops)) == 1 and not set(loops) & set(world.reading_threads)
    assert len(world.reading_threads) == 1, "once"
