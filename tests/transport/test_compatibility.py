"""The wire without extensions, byte for byte, as SGLang-Diffusion's realtime clients read it."""

import pytest
from msgspec import msgpack

PLAIN_INIT = {
    "type": "init",
    "prompt": "a hill",
    "size": "32x16",
    "fps": 60,
    "seed": 1,
    "num_frames": 9,
    "guidance_scale": 1.0,
    "negative_prompt": "",
    "generator_device": "cpu",
    "realtime_causal_sink_size": 9,
    "realtime_causal_kv_cache_num_frames": 18,
}


def frames_of(peer, **changes):
    """The binary frames of a whole session of one chunk."""
    peer.socket.send_bytes(msgpack.encode(PLAIN_INIT | {"max_chunks": 1} | changes))
    received = []
    while not received or b"chunk_stats" not in bytes(received[-1][:30]):
        received.append(peer.socket.receive_bytes())
    return received


def text(value):
    return bytes([0xA0 | len(value)]) + value.encode()


def test_a_raw_chunk_on_literal_bytes(peer):
    batch, _ = frames_of(peer)
    payload = b"\x01" * (9 * 16 * 32 * 3)
    expected = b"\xde\x00\x11" + b"".join(
        [
            text("type") + text("frame_batch"),
            text("request_id") + text("s1-0"),
            text("chunk_index") + b"\x00",
            text("content_type") + text("application/x-raw-rgb"),
            text("num_frames") + b"\x09",
            text("total_size") + b"\xcd\x36\x00",
            text("frame_batch_index") + b"\x00",
            text("num_frame_batches") + b"\x01",
            text("is_final_frame_batch") + b"\xc3",
            text("format") + text("rgb24"),
            text("width") + b"\x20",
            text("height") + b"\x10",
            text("channels") + b"\x03",
            text("bytes_per_frame") + b"\xcd\x06\x00",
            text("raw_size") + b"\xcd\x36\x00",
            text("encoding") + text("raw"),
            text("payload") + b"\xc5\x36\x00" + payload,
        ]
    )
    assert bytes(batch) == expected


def test_a_large_chunk_is_a_header_and_a_bare_payload(make_world, serve):
    world = make_world(size=(112, 64))
    with serve(world) as server, server.dial() as peer:
        header, payload, _ = frames_of(peer)
    assert bytes(header).startswith(b"\xde\x00\x10" + text("type") + text("frame_batch_header"))
    assert b"payload" not in bytes(header)
    assert bytes(payload) == b"\x01" * (9 * 64 * 112 * 3)


@pytest.mark.parametrize("size, num_frames", [((832, 480), [9]), ((112, 64), [9])])
def test_a_raw_batch_holds_up_to_sixteen_frames_of_any_size(make_world, serve, size, num_frames):
    with serve(make_world(size=size)) as server, server.dial() as peer:
        frames = frames_of(peer)
    headers = [msgpack.decode(one) for one in frames if bytes(one[:3]) == b"\xde\x00\x10"]
    assert [header["num_frames"] for header in headers] == num_frames


@pytest.mark.parametrize("encoding", ["jpeg", "webp"])
def test_encoded_batches_are_of_six_and_name_both_sizes(peer, encoding):
    fields = {"realtime_output_format": encoding, "realtime_preview_max_width": 16}
    *batches, _ = map(msgpack.decode, frames_of(peer, **fields))
    assert [batch["num_frames"] for batch in batches] == [6, 3]
    assert list(batches[0])[9:] == [
        "format",
        "width",
        "height",
        "channels",
        "bytes_per_frame",
        "encoding",
        "source_width",
        "source_height",
        "preview_width",
        "preview_height",
        "payload_lengths",
        "payload",
    ]
    sizes = [batches[0][name] for name in ("width", "height", "source_width", "source_height")]
    assert sizes == [16, 8, 32, 16]
    assert batches[0]["content_type"] == f"image/{encoding}"


def test_stats_on_literal_bytes_and_no_float_anywhere(peer):
    batch, stats = frames_of(peer)
    stats = bytes(stats)
    assert stats.startswith(
        b"\xde\x00\x12"
        + text("type")
        + text("chunk_stats")
        + text("session_id")
        + text("s1")
        + text("request_id")
        + text("s1-0")
        + text("chunk_index")
        + b"\x00"
        + text("event_id")
        + b"\xc0"
    )
    fields = msgpack.decode(stats)
    assert list(fields)[5:] == [
        "request_prepare_ms",
        "scheduler_forward_ms",
        "pace_wait_ms",
        "header_write_ms",
        "raw_payload_build_ms",
        "raw_write_ms",
        "ws_write_ms",
        "chunk_total_ms",
        "num_batches",
        "num_frames",
        "raw_bytes",
        "ws_payload_bytes",
        "content_type",
    ]
    values = [*fields.values(), *msgpack.decode(batch).values()]
    assert not any(isinstance(value, float) for value in values)
    assert fields["ws_payload_bytes"] == len(batch)


def test_an_error_begins_with_the_content_that_a_client_prints(peer):
    peer.socket.send_bytes(msgpack.encode(PLAIN_INIT | {"size": "no"}))
    assert bytes(peer.socket.receive_bytes()).startswith(
        b"\x84" + text("type") + text("error") + text("content")
    )


def test_scripts_and_held_keys_of_plain_clients_are_followed(peer, world):
    world.running.clear()  # the events come before the last chunk
    peer.socket.send_bytes(msgpack.encode(PLAIN_INIT | {"max_chunks": 8}))
    peer.event("camera_actions", [["w"], ["w", "l"]])
    transitions = [{"actions": ["a"], "client_ts_ms": 12.5}]
    peer.event("camera_actions", {"mode": "state", "transitions": transitions})
    world.running.set()
    assert peer.close_of() == (1000, "done")
    assert ["a", "a", "a"] in [actions for actions, _ in world.steps]
