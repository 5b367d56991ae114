from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, msgpack

from transport.wire.decoding import decode_field, decode_message, is_absent, read_event_id
from transport.wire.errors import BadMessage
from transport.wire.messages import (
    Ack,
    AppliedControls,
    ChunkStats,
    ControlAck,
    EncodedLayout,
    Error,
    Event,
    FrameBatchHeader,
    HeaderExtras,
    Init,
    OutputChange,
    RawLayout,
    encode_batch,
    encode_message,
)

RAW = RawLayout(
    format="rgb24", width=4, height=2, channels=3, bytes_per_frame=24, raw_size=48, encoding="raw"
)


def header(**changes):
    fields = {
        "request_id": "s-0",
        "chunk_index": 0,
        "content_type": "application/x-raw-rgb",
        "num_frames": 2,
        "total_size": 48,
        "frame_batch_index": 0,
        "num_frame_batches": 1,
        "is_final_frame_batch": True,
    }
    return FrameBatchHeader(**fields | changes)


def test_ack():
    assert decode_message(b"\x82\xa4type\xa3ack\xabchunk_index\x07") == Ack(7)


def test_event():
    event = decode_message(b"\x83\xa4type\xa5event\xa4kind\xa6prompt\xa7payload\xa1x")
    assert (event.kind, event.event_id, bytes(event.payload)) == ("prompt", None, b"\xa1x")


@pytest.mark.parametrize("write", [int, float, str])
def test_an_integer_may_be_a_whole_float_or_digits(write):
    def read(**fields):
        return decode_message(msgpack.encode(fields))

    assert read(type="ack", chunk_index=write(7)) == Ack(7)
    assert read(type="event", kind="prompt", event_id=write(3)).event_id == 3
    output = Raw(msgpack.encode({"output_compression": write(80)}))
    assert decode_field(output, OutputChange, field="payload").output_compression == 80
    assert read_event_id(msgpack.encode({"type": "event", "event_id": write(3)})) == 3


@pytest.mark.parametrize("event_id", [2**63, "9" * 30, 1e30, 3.5])
def test_an_event_id_can_be_sent_back(event_id):
    with pytest.raises(BadMessage) as caught:
        decode_message(msgpack.encode({"type": "event", "kind": "x", "event_id": event_id}))
    assert caught.value.field == "event_id"


def test_text_is_not_read_as_another_type():
    init = decode_message(msgpack.encode({"type": "init", "prompt": "null", "size": "7"}))
    assert (init.prompt, init.size) == ("null", "7")


def test_an_init_may_be_empty():
    init = decode_message(b"\x81\xa4type\xa4init")
    assert (init.prompt, init.seed, init.extensions) == (None, None, None)
    assert is_absent(init.first_frame)


def test_null_is_the_same_as_absent():
    init = decode_message(msgpack.encode({"type": "init"} | dict.fromkeys(Init.__struct_fields__)))
    assert init.size is None
    assert is_absent(init.first_frame)


def test_unknown_fields_are_ignored():
    init = decode_message(msgpack.encode({"type": "init", "guidance_scale": 1.0, "num_frames": 29}))
    assert isinstance(init, Init)


@pytest.mark.parametrize(
    "data, code, field, reason",
    [
        (b"", "malformed", None, "truncated"),
        (b"\xc1", "malformed", None, "malformed"),
        (b"\x81\xa4type\xa4initjunk", "malformed", None, "trailing"),
        (b"\x82\xa4type\xa4init\xa4size\xa2\xff\xfe", "malformed", None, "utf-8"),
        (b"\x91" * 5000, "malformed", None, "expected `object`, got `array`"),
        (b"\x82\xa4type\xa4init\xa3new" + b"\x91" * 5000, "malformed", None, "recursion"),
        (b"\x05", "malformed", None, "expected `object`, got `int`"),
        (b"\x81\x01\x02", "malformed", None, "expected `str`, got `int`"),
        (b"\x80", "missing_field", "type", "missing required field `type`"),
        (b"\x81\xa4type\x03", "invalid_field", "type", "expected `str`, got `int`"),
        (b"\x81\xa4type\xa3fly", "unknown_type", "type", "'fly', expected 'init', 'event' or"),
        (b"\x81\xa4type\xa5event", "missing_field", "kind", "missing required field `kind`"),
        (b"\x81\xa4type\xa3ack", "missing_field", "chunk_index", "missing required field"),
    ],
)
def test_invalid_bytes_are_answered_with_the_reason(data, code, field, reason):
    with pytest.raises(BadMessage) as caught:
        decode_message(data)
    assert (caught.value.code, caught.value.field) == (code, field)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "fields, field, expected",
    [
        ({"seed": 2**63}, "seed", "expected `int` <= 9223372036854775807"),
        ({"seed": "seven"}, "seed", "got `str`"),
        ({"seed": "7.5"}, "seed", "got `str`"),
        ({"seed": ""}, "seed", "got `str`"),
        ({"seed": float("nan")}, "seed", "got `float`"),
        ({"seed": True}, "seed", "got `bool`"),
        ({"seed": 1.5}, "seed", "got `float`"),
        ({"fps": 0}, "fps", "expected `int` >= 1"),
        ({"fps": 61}, "fps", "expected `int` <= 60"),
        ({"max_chunks": 0}, "max_chunks", "expected `int` >= 1"),
        ({"prompt": 5}, "prompt", "expected `str"),
        ({"prompt": "x" * 8001}, "prompt", "of length <= 8000"),
        ({"size": [112, 64]}, "size", "expected `str"),
        ({"output_compression": 101}, "output_compression", "expected `int` <= 100"),
        ({"condition_inputs": []}, "condition_inputs", "expected `object"),
        ({"extensions": 2}, "extensions", "expected `bool"),
    ],
)
def test_a_wrong_field_of_init_is_named_with_what_was_expected(fields, field, expected):
    with pytest.raises(BadMessage) as caught:
        decode_message(msgpack.encode({"type": "init"} | fields))
    assert (caught.value.code, caught.value.field) == ("invalid_field", field)
    assert expected in str(caught.value)


def test_an_unknown_type_is_not_quoted_at_length():
    with pytest.raises(BadMessage) as caught:
        decode_message(msgpack.encode({"type": "x" * 60_000}))
    assert len(str(caught.value)) < 200


def test_a_path_below_an_untyped_field_starts_at_that_field():
    with pytest.raises(BadMessage) as caught:
        decode_field(Raw(msgpack.encode([["w"], ["w", 5]])), list[list[str]], field="payload")
    assert caught.value.field == "payload[1][1]"


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_bad_message(data):
    with suppress(BadMessage):
        decode_message(data)


words = st.text("wasq", max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | words | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)


@given(
    st.sampled_from(["init", "event", "ack"]),
    st.dictionaries(st.sampled_from([*Init.__struct_fields__, *Event.__struct_fields__]), values),
)
def test_random_fields_raise_nothing_but_bad_message(tag, fields):
    with suppress(BadMessage):
        decode_message(msgpack.encode(fields | {"type": tag}))


def test_a_small_raw_batch_is_one_map_with_the_payload_last():
    (data,) = encode_batch(header(), RAW, memoryview(bytes(48)))
    assert list(msgpack.decode(data)) == [
        "type",
        "request_id",
        "chunk_index",
        "content_type",
        "num_frames",
        "total_size",
        "frame_batch_index",
        "num_frame_batches",
        "is_final_frame_batch",
        "format",
        "width",
        "height",
        "channels",
        "bytes_per_frame",
        "raw_size",
        "encoding",
        "payload",
    ]
    assert data.startswith(b"\xde\x00\x11\xa4type\xabframe_batch\xaarequest_id\xa3s-0")


def test_an_encoded_batch_carries_its_own_fields_after_the_event_id():
    layout = EncodedLayout(
        format="jpeg",
        width=4,
        height=2,
        channels=3,
        bytes_per_frame=96,
        encoding="jpeg",
        source_width=8,
        source_height=4,
        preview_width=4,
        preview_height=2,
        payload_lengths=[10, 11],
    )
    (data,) = encode_batch(header(event_id=3), layout, bytes(21))
    assert list(msgpack.decode(data))[9:] == [
        "event_id",
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


@pytest.mark.parametrize("num_bytes, num_parts", [(65_535, 1), (65_536, 2)])
def test_a_payload_goes_bare_from_64_kib_on(num_bytes, num_parts):
    payload = b"\x07" * num_bytes
    parts = encode_batch(header(), RAW, payload)
    assert len(parts) == num_parts
    if num_parts == 2:
        assert msgpack.decode(parts[0])["type"] == "frame_batch_header"
        assert "payload" not in msgpack.decode(parts[0])
        assert parts[1] is payload  # not a copy


def test_applied_controls_travel_with_the_extras():
    applied = AppliedControls([["w"], [], ["w", "l"]], [4, 5])
    (data,) = encode_batch(
        header(), RAW, bytes(48), extras=HeaderExtras(applied_controls=applied, world_chunk_index=3)
    )
    fields = msgpack.decode(data)
    assert fields["applied_controls"] == {"actions": [["w"], [], ["w", "l"]], "event_ids": [4, 5]}
    assert not {"cut_over", "dropped_frames"} & set(fields)


def test_cut_over_and_dropped_frames_travel_if_set():
    extras = HeaderExtras(
        applied_controls=AppliedControls([], []),
        world_chunk_index=3,
        cut_over=True,
        dropped_frames=24,
    )
    (data,) = encode_batch(header(), RAW, bytes(48), extras=extras)
    fields = msgpack.decode(data)
    assert (fields["cut_over"], fields["dropped_frames"]) == (True, 24)


def test_stats_keep_their_order_and_a_null_event_id():
    names = ChunkStats.__struct_fields__
    stats = ChunkStats(**{name: 0 for name in names} | {"event_id": None})
    assert list(msgpack.decode(encode_message(stats))) == ["type", *names]
    assert msgpack.decode(encode_message(stats))["event_id"] is None


def test_an_error_may_have_a_field():
    assert encode_message(Error(content="why", code="busy")) == (
        b"\x83\xa4type\xa5error\xa7content\xa3why\xa4code\xa4busy"
    )
    assert (
        msgpack.decode(encode_message(Error(content="why", code="busy", field="size")))["field"]
        == "size"
    )


def test_control_ack():
    assert encode_message(ControlAck(9)) == b"\x82\xa4type\xabcontrol_ack\xa8event_id\x09"
