import io
import time

import anyio
import pytest
from msgspec import msgpack
from PIL import Image

from tests.transport.connection.virtual_clock import serve_on_virtual_clock
from tests.waiting import until
from transport.wire.errors import Refused
from transport.wire.messages import Queued, Starting, WarningMessage

FAST = {"extensions": True, "realtime_output_pacing": False}


def test_a_plain_client_receives_the_plain_wire(peer, world):
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
    assert stats["raw_bytes"] == 9 * 16 * 32 * 3
    assert 0 < stats["ws_payload_bytes"] - stats["raw_bytes"] < 400  # the header
    assert (stats["session_id"], stats["content_type"]) == ("s1", "application/x-raw-rgb")


def test_jpeg_comes_in_batches_of_six(peer):
    peer.init(max_chunks=1, realtime_output_format="jpeg")
    *batches, stats = peer.read_until("chunk_stats")
    assert [batch["num_frames"] for batch in batches] == [6, 3]
    assert [batch["content_type"] for batch in batches] == ["image/jpeg"] * 2
    payloads = sum(batch["total_size"] for batch in batches)
    assert 0 < stats["ws_payload_bytes"] - payloads < 800  # two headers
    assert stats["raw_bytes"] == 9 * 16 * 32 * 3


def jpeg_settings(data):
    """The quantisation tables, and whether colour is sampled at all pixels."""
    with Image.open(io.BytesIO(data)) as picture:
        return picture.quantization, {layer[1:3] for layer in picture.layer} == {(1, 1)}


@pytest.mark.parametrize(
    "fields, quality, is_444",
    [
        ({}, 95, True),
        ({"extensions": True}, 90, False),
        ({"output_compression": 0}, 95, True),
        ({"output_compression": 60}, 60, True),
        ({"realtime_chroma_subsampling": "420"}, 95, False),
        ({"extensions": True, "realtime_chroma_subsampling": "444"}, 90, True),
    ],
)
@pytest.mark.parametrize("by_event", [False, True])
def test_the_default_quality_of_jpeg_is_that_of_the_client(
    peer, world, fields, quality, is_444, by_event
):
    world.running.clear()
    settings = fields | {"realtime_output_format": "jpeg"}
    if by_event:
        peer.init(extensions=fields.get("extensions"), realtime_output_format="webp")
        peer.event("output", {k: v for k, v in settings.items() if k != "extensions"})
    else:
        peer.init(**settings)
    world.running.set()
    batch = peer.read()
    while batch.get("content_type") != "image/jpeg" or "payload" not in batch:
        batch = peer.read()
    tables, is_sampled_fully = jpeg_settings(batch["payload"][: batch["payload_lengths"][0]])
    file = io.BytesIO()
    Image.new("RGB", (32, 16)).save(file, "JPEG", quality=quality)
    assert tables == jpeg_settings(file.getvalue())[0]
    assert is_sampled_fully == is_444


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
    assert world.images[0].shape == (16, 32, 3)
    assert (world.images[0] == [9, 8, 7]).all()


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


def test_extensions_name_the_session_and_the_applied_controls(world, serve):
    world.news = [Queued(2), Starting()]
    with serve(world) as server, server.dial() as peer:
        peer.init(max_chunks=3, condition_inputs={"camera_actions": [["w"]] * 4}, **FAST)
        assert peer.read() == {"type": "queued", "position": 2}
        assert peer.read() == {"type": "starting"}
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


def test_warnings_follow_the_session_of_a_client_with_extensions(server):
    with server.dial() as extended, server.dial() as plain:
        for peer, extensions in ((extended, True), (plain, False)):
            peer.init(size="16x32", extensions=extensions, max_chunks=1)
        assert extended.read()["type"] == "session"
        warning = extended.read()
        assert (warning["type"], warning["code"]) == ("warning", "size_changed")
        kinds = [message["type"] for message in plain.read_until("chunk_stats")]
        assert kinds == ["frame_batch", "chunk_stats"]


@pytest.mark.parametrize(
    "fields, width, height",
    [
        ({"first_frame": (20, 50)}, 16, 32),
        ({"first_frame": (50, 20)}, 32, 16),
        ({"first_frame": (20, 50), "size": "32x16"}, 32, 16),
        ({}, 32, 16),  # the opening's shape is 20x10
        ({"size": "16x32"}, 16, 32),
    ],
)
def test_a_world_has_the_requested_size_or_the_shape_of_its_first_frame(
    make_world, make_png, serve, fields, width, height
):
    world = make_world((32, 16), (16, 32), (32, 32))
    if image := fields.get("first_frame"):
        fields = fields | {"first_frame": make_png(*image)}
    with serve(world) as server, server.dial() as extended, server.dial() as plain:
        extended.init(extensions=True, max_chunks=1, **fields)
        session = extended.read()
        assert (session["type"], session["width"], session["height"]) == ("session", width, height)
        assert extended.read()["type"] == "frame_batch"  # and no warning
        plain.init(max_chunks=1, **fields)
        batch = plain.read()
        assert (batch["width"], batch["height"]) == (width, height)
    assert {(spec.width, spec.height) for spec in world.specs} == {(width, height)}
    assert all(image.shape == (height, width, 3) for image in world.images)


def test_a_warning_of_the_world_is_sent_when_it_comes(peer, world):
    first, second = (WarningMessage(text, "prompt_truncated", "prompt") for text in ("one", "two"))
    world.warnings = [first]
    world.running.clear()
    peer.init(extensions=True)
    assert [peer.read()["type"], peer.read()["content"]] == ["session", "one"]
    world.warnings = [second]
    world.running.set()
    assert peer.read_until("warning")[-1]["content"] == "two"
    assert world.warnings == []


def test_the_event_id_leaves_the_headers_once_its_script_has_run_out(peer):
    peer.init(extensions=True, realtime_output_pacing=False, max_chunks=8)
    peer.event("camera_actions", [["w"]] * 4, event_id=7)
    seen = []
    for index in range(8):
        *batches, stats = peer.read_until("chunk_stats")
        headers = [batch for batch in batches if batch["type"] == "frame_batch"]
        assert {header.get("event_id") for header in headers} == {stats["event_id"]}
        seen.append(stats["event_id"])
        peer.send(type="ack", chunk_index=index)
    begin = seen.index(7)
    assert seen == [None] * begin + [7, 7] + [None] * (6 - begin)


def test_two_chunks_without_an_ack_stop_the_world(peer, world):
    peer.init(**FAST)
    peer.read_until("chunk_stats")
    peer.read_until("chunk_stats")
    peer.event("prompt", "x", event_id=1)
    assert peer.read()["type"] == "control_ack"  # no frame came before it
    assert len(world.steps) == 2
    peer.send(type="ack", chunk_index=0)
    assert peer.read_until("chunk_stats")[-1]["chunk_index"] == 2


def test_the_next_chunk_is_requested_while_the_last_is_decoded(peer, world):
    world.decoding.clear()
    peer.init(**FAST)
    while len(world.steps) < 2:
        time.sleep(0.005)
    world.decoding.set()
    indices = [peer.read_until("chunk_stats")[-1]["chunk_index"] for _ in range(2)]
    assert indices == [0, 1]


def test_an_invalid_init_is_answered_and_another_may_follow(peer, world, make_png):
    peer.init(size="0x0")
    assert peer.read()["field"] == "size"
    peer.init(first_frame=b"not an image")
    assert peer.read()["field"] == "first_frame"
    peer.init(first_frame="/etc/passwd")
    assert "reads no files" in peer.read()["content"]
    peer.event("prompt", "rain")
    assert peer.read()["code"] == "out_of_order"
    peer.init(first_frame=make_png())
    assert peer.read()["type"] == "frame_batch"


def test_a_refusal_of_the_world_is_answered_and_another_init_may_follow(peer, world):
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


def test_an_invalid_event_is_answered_and_the_session_continues(peer, world):
    world.running.clear()
    peer.init(max_chunks=3)
    peer.event("camera_actions", [[5]])
    error = peer.read_until("error")[-1]
    assert (error["code"], error["field"]) == ("invalid_field", "payload[0][0]")
    world.running.set()
    assert peer.close_of() == (1000, "done")


def test_one_client_does_not_disturb_another(server, world):
    with server.dial() as one, server.dial() as other:
        one.init()
        other.init(max_chunks=3)
        other.read()
        for _ in range(500):  # in less than four minutes
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
            message = peer.read()  # checks the payload after a header
            if message["type"] == "control_ack":
                acked.append(message["event_id"])
            if message["type"] == "frame_batch_header":
                chunks += 1
                peer.send(type="ack", chunk_index=message["chunk_index"])
        assert acked == list(range(1000))


def test_sending_a_chunk_overlaps_the_generation_of_the_next(make_socket, make_world):
    world = make_world(size=(112, 64))

    async def scenario():
        socket = make_socket(stuck_on=65_536)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(socket.serve, world)
            await socket.inbox.send(msgpack.encode({"type": "init", "max_chunks": 2} | FAST))
            await socket.stuck.wait()
            await until(lambda: len(world.steps) == 2)
            assert len(socket.sent) == 3  # session, header, and the payload that is stuck
            socket.release.set()
        assert socket.closed_with == (1000, "done")

    anyio.run(scenario)


def test_a_plain_client_is_paced_by_the_media_clock(world, monkeypatch):
    socket = serve_on_virtual_clock(world, {"max_chunks": 4}, monkeypatch, seconds=60)
    times = [at_s for at_s, message in socket.received if message["type"] == "frame_batch"]
    # Each chunk starts 0.1 s before those before it have been shown: 9, 21 and 33 frames.
    assert times == pytest.approx([0, 9 / 60 - 0.1, 21 / 60 - 0.1, 33 / 60 - 0.1])
