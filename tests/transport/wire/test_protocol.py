"""The order of messages in both directions, on literal bytes."""

import math

import pytest
from msgspec import msgpack

from transport.wire.closing import build_close
from transport.wire.controls import ChunkControls
from transport.wire.errors import Busy, Refused, TooLarge, WorldLost
from transport.wire.init import SessionRequest
from transport.wire.messages import (
    Ack,
    ChunkStats,
    ControlAck,
    Error,
    FrameBatchHeader,
    Queued,
    RawLayout,
    Reconnect,
    Starting,
    WarningMessage,
)
from transport.wire.protocol import State

NO_CONTROLS = ChunkControls(actions=[], event_ids=[], prompt=None)
NEW_KEYS = ChunkControls(actions=["w", "", "wl"], event_ids=[7], prompt=None, has_new_keys=True)
LAYOUT = RawLayout(
    format="rgb24", width=4, height=2, channels=3, bytes_per_frame=24, raw_size=24, encoding="raw"
)
SPLIT_BYTES = 65_536


def init(**fields):
    return msgpack.encode({"type": "init"} | fields)


def event(kind, payload, **fields):
    return msgpack.encode({"type": "event", "kind": kind, "payload": payload} | fields)


def header(*, chunk_index=0, index=0, num_batches=1, num_bytes=24):
    return FrameBatchHeader(
        request_id="s1-0",
        chunk_index=chunk_index,
        content_type="application/x-raw-rgb",
        num_frames=1,
        total_size=num_bytes,
        frame_batch_index=index,
        num_frame_batches=num_batches,
        is_final_frame_batch=index == num_batches - 1,
    )


def send_batch(protocol, *, controls=NO_CONTROLS, dropped_frames=0, num_bytes=24, **fields):
    return protocol.send_batch(
        header(num_bytes=num_bytes, **fields),
        LAYOUT,
        bytes(num_bytes),
        controls=controls,
        dropped_frames=dropped_frames,
    )


# ---- from the client


def test_the_script_of_init_is_played_from_the_first_chunk(start):
    protocol = start(condition_inputs={"camera_actions": [["w"], ["l"]]})
    assert protocol.controls.take_chunk(3).actions == ["w", "l", ""]


def test_a_rejected_init_leaves_no_trace(start):
    protocol = start(condition_inputs={"camera_actions": [["w"]]})
    (error,) = protocol.reject(Refused("no such seed", field="seed"), 0.0)
    assert (error.code, error.field) == ("refused", "seed")
    assert protocol.state is State.IDLE
    assert isinstance(protocol.receive(init(), 0.0), SessionRequest)
    assert protocol.controls.take_chunk(3).actions == ["", "", ""]


@pytest.mark.parametrize(
    "data", [event("prompt", "rain"), msgpack.encode({"type": "ack", "chunk_index": 0})]
)
def test_a_message_before_init_is_answered(connect, data):
    error = connect().receive(data, 0.0)
    assert error.code == "out_of_order"
    assert "before init" in error.content


def test_a_second_init_is_answered_and_the_session_continues(start):
    protocol = start()
    protocol.send_session("s1")
    assert protocol.receive(init(prompt="x" * 100), 0.0).code == "out_of_order"
    assert protocol.receive(init(first_frame=bytes(100_000)), 0.0).code == "out_of_order"
    assert protocol.receive(event("prompt", "rain"), 0.0) == []


def test_events_reach_the_controls(start):
    protocol = start()
    protocol.receive(event("camera_actions", [["w"], ["l"]], event_id=1), 0.0)
    protocol.receive(event("prompt", "rain", event_id=2), 0.0)
    taken = protocol.controls.take_chunk(3)
    assert (taken.actions, taken.prompt, taken.event_ids) == (["w", "l", ""], "rain", [1, 2])


@pytest.mark.parametrize("data, code", [("hello", "text_frame"), (b"\xc1", "malformed")])
def test_a_frame_that_is_not_a_message_is_answered(connect, start, data, code):
    assert connect().receive(data, 0.0).code == code
    assert start().receive(data, 0.0).code == code


def test_events_with_an_id_are_acknowledged_to_clients_with_extensions(start):
    asked = start(extensions=True)
    assert asked.receive(event("prompt", "rain", event_id=7), 0.0) == [ControlAck(7)]
    assert asked.receive(event("prompt", "rain"), 0.0) == []
    assert start().receive(event("prompt", "rain", event_id=7), 0.0) == []


def test_acks_reach_the_pacer(start):
    protocol = start(extensions=True, realtime_output_pacing=False)
    for _ in range(2):
        protocol.chunk_generated(0.0, NO_CONTROLS, num_frames=12, took_s=0.1)
    assert protocol.wait_to_generate_s(0.0) > 0
    assert protocol.receive(b"\x82\xa4type\xa3ack\xabchunk_index\x01", 0.0) == Ack(1)
    assert protocol.wait_to_generate_s(0.0) == 0


def test_acks_are_an_extension(start):
    error = start().receive(msgpack.encode({"type": "ack", "chunk_index": 0}), 0.0)
    assert (error.code, error.content) == ("out_of_order", "an ack without `extensions` in init")


def test_an_event_over_its_limit_ends_the_connection(start):
    protocol = start()
    with pytest.raises(TooLarge, match="expected at most 65536"):
        protocol.receive(event("prompt", "x" * 65_536), 0.0)


def test_an_init_over_its_limit_ends_the_connection(connect):
    with pytest.raises(TooLarge, match="expected at most 4096"):
        connect(max_init_bytes=4096).receive(init(first_frame=bytes(4096)), 0.0)


def test_a_client_that_sends_too_many_invalid_messages_is_refused(connect):
    protocol = connect(max_errors=100)
    for _ in range(100):
        assert isinstance(protocol.receive(b"\xc1", 0.0), Error)
    with pytest.raises(Refused, match="more than 100 invalid messages") as caught:
        protocol.receive(b"\xc1", 0.0)
    assert (caught.value.code, caught.value.close_code) == ("too_many_errors", 1008)


def test_one_invalid_message_every_five_seconds_never_ends_the_connection(start):
    protocol = start()
    for turn in range(2000):
        assert isinstance(protocol.receive(event("wave", None), 5.0 * turn), Error)


def test_a_failed_init_counts_as_an_invalid_message(connect):
    protocol = connect(max_errors=1)
    protocol.receive(init(), 0.0)
    assert protocol.reject(Refused("no"), 0.0)[0].code == "refused"
    protocol.receive(init(), 1.0)
    with pytest.raises(Refused, match="more than 1 invalid messages in a minute"):
        protocol.reject(Refused("no"), 1.0)


@pytest.mark.parametrize(
    "fields, event_id",
    [
        ({"kind": "wave", "event_id": 7}, 7),
        ({"kind": "prompt", "payload": 5, "event_id": 0}, 0),
        ({"kind": "camera_actions", "payload": "w", "event_id": 7}, 7),
        ({"kind": "composite_input", "payload": {"input_types": ["x"]}, "event_id": 7}, 7),
        ({"kind": 5, "event_id": 7}, 7),
        ({"event_id": 7}, 7),
        ({"type": "fly", "event_id": 7}, 7),
        ({"kind": "wave", "event_id": [7]}, None),
        ({"kind": "wave"}, None),
        ({"kind": "wave", "event_id": None}, None),
    ],
)
def test_an_error_names_the_event_that_it_answers(connect, start, fields, event_id):
    data = msgpack.encode({"type": "event"} | fields)
    for protocol in (connect(), start(), start(extensions=True)):
        error = protocol.receive(data, 0.0)
        assert error.event_id == event_id
        (written,) = protocol.send_reply(error)
        assert msgpack.decode(written).get("event_id") == event_id


@pytest.mark.parametrize(
    "data", ["text", b"\xc1", b"\x81\xa8event_id", b"\x91" * 5000, init(fps=0)]
)
def test_an_error_about_something_else_names_no_event(connect, data):
    assert connect().receive(data, 0.0).event_id is None


# ---- to the client


def test_replies_on_literal_bytes(connect):
    protocol = connect()
    assert protocol.send_reply(ControlAck(9)) == [b"\x82\xa4type\xabcontrol_ack\xa8event_id\x09"]
    assert protocol.send_reply(Error(content="why", code="busy")) == [
        b"\x83\xa4type\xa5error\xa7content\xa3why\xa4code\xa4busy"
    ]


def test_the_queue_status_is_for_clients_with_extensions(start):
    plain, extended = start(), start(extensions=True)
    assert extended.send_notice(Queued(2)) == [b"\x82\xa4type\xa6queued\xa8position\x02"]
    assert extended.send_notice(Queued(2, all_taken=True)) == [
        b"\x83\xa4type\xa6queued\xa8position\x02\xa9all_taken\xc3"
    ]
    assert extended.send_notice(Starting()) == [b"\x81\xa4type\xa8starting"]
    assert plain.send_notice(Queued(2)) == plain.send_notice(Starting()) == []


def test_a_warning_is_for_clients_with_extensions(start):
    warning = WarningMessage("why", code="codec_failed")
    assert start(extensions=True).send_notice(warning) == [
        b"\x83\xa4type\xa7warning\xa7content\xa3why\xa4code\xaccodec_failed"
    ]
    assert start().send_notice(warning) == []


def test_a_warning_may_name_a_field(start):
    (data,) = start(extensions=True).send_notice(WarningMessage("why", "size_changed", "size"))
    assert data.endswith(b"\xa4code\xacsize_changed\xa5field\xa4size")


def test_a_session_on_literal_bytes(start):
    (data,) = start(extensions=True, realtime_output_format="jpeg").send_session("s1")
    assert data == (
        b"\x8f\xa4type\xa7session\xaasession_id\xa2s1\xa5width\x70\xa6height\x40\xa3fps\x10"
        b"\xb3chunk_latent_frames\x03\xb2first_chunk_frames\x09\xacchunk_frames\x0c"
        b"\xa8encoding\xa4jpeg\xa6limits\x84\xafmax_event_bytes\xce\x00\x01\x00\x00"
        b"\xb8max_script_latent_frames\xcd\x02\x00\xb0max_prompt_chars\xcd\x1f\x40"
        b"\xb9max_unacknowledged_chunks\x02\xa4seed\x2a\xb1world_chunk_index\x00"
        b"\xb4earliest_chunk_index\x00\xacresume_token\xc0\xaeresume_grace_s\xc0"
    )


def test_the_plain_wire_has_no_session_message(start):
    assert start().send_session("s1") == []


@pytest.mark.parametrize("extensions", [False, True])
def test_no_chunk_comes_before_the_session(start, extensions):
    protocol = start(extensions=extensions)
    with pytest.raises(AssertionError, match="a chunk before `send_session`"):
        send_batch(protocol)
    protocol.send_session("s1")
    assert len(send_batch(protocol)) == 1


@pytest.mark.parametrize("num_bytes, num_parts", [(SPLIT_BYTES - 1, 1), (SPLIT_BYTES, 2)])
def test_a_header_and_its_payload_are_one_unit(start, num_bytes, num_parts):
    protocol = start()
    protocol.send_session("s1")
    first, *payload = unit = send_batch(protocol, num_bytes=num_bytes)
    assert len(unit) == num_parts
    kind = b"frame_batch_header" if payload else b"frame_batch"
    length = bytes([0xA0 | len(kind)])
    assert first[3:].startswith(b"\xa4type" + length + kind + b"\xaarequest_id\xa4s1-0")
    assert payload in ([], [bytes(num_bytes)])


def test_the_plain_wire_has_no_extras(start):
    protocol = start(realtime_cut_over=True)
    protocol.send_session("s1")
    (data,) = send_batch(protocol, controls=NEW_KEYS, dropped_frames=12)
    assert not {"applied_controls", "cut_over", "dropped_frames"} & set(msgpack.decode(data))


def test_extras_name_the_controls_and_the_dropped_frames(start):
    protocol = start(extensions=True)
    protocol.send_session("s1")
    (data,) = send_batch(protocol, controls=NEW_KEYS, dropped_frames=12)
    fields = msgpack.decode(data)
    assert fields["applied_controls"] == {"actions": [["w"], [], ["w", "l"]], "event_ids": [7]}
    assert (fields.get("cut_over"), fields["dropped_frames"]) == (None, 12)


def test_only_the_first_batch_of_a_chunk_with_new_keys_is_cut_over(start):
    protocol = start(extensions=True, realtime_cut_over=True)
    protocol.send_session("s1")
    marks = []
    for controls in (NO_CONTROLS, NEW_KEYS):
        for index in range(2):
            (data,) = send_batch(protocol, controls=controls, index=index, num_batches=2)
            marks.append(msgpack.decode(data).get("cut_over", False))
    assert marks == [False, False, True, False]


def test_stats_are_one_map(start):
    stats = ChunkStats(**dict.fromkeys(ChunkStats.__struct_fields__, 0))
    (data,) = start().send_stats(stats)
    assert data.startswith(b"\xde\x00\x12\xa4type\xabchunk_stats\xaasession_id\x00")


def test_two_chunks_may_be_sent_before_an_ack(start):
    protocol = start(extensions=True)
    protocol.send_session("s1")
    for chunk_index in range(2):
        protocol.chunk_generated(0.0, NO_CONTROLS, num_frames=12, took_s=0.1)
        assert protocol.wait_to_send_s(0.0) == 0
        for index in range(2):  # a chunk counts once
            send_batch(protocol, chunk_index=chunk_index, index=index, num_batches=2)
    assert protocol.wait_to_send_s(9.0) == math.inf
    protocol.receive(b"\x82\xa4type\xa3ack\xabchunk_index\x00", 0.0)
    assert protocol.wait_to_send_s(9.0) == 0


def test_a_plain_client_may_be_sent_every_chunk(start):
    protocol = start()
    protocol.send_session("s1")
    for chunk_index in range(9):
        send_batch(protocol, chunk_index=chunk_index)
    assert protocol.wait_to_send_s(0.0) == 0


def test_a_chunk_with_new_keys_restarts_the_media_clock_of_a_client_that_flushes(start):
    underruns_s = {}
    for flushes in (False, True):
        protocol = start(extensions=True, realtime_cut_over=flushes)
        protocol.chunk_generated(100.0, NO_CONTROLS, num_frames=12, took_s=0.1)
        protocol.chunk_generated(100.5, NEW_KEYS, num_frames=6, took_s=0.1)
        underruns_s[flushes] = protocol.time_to_underrun_s(100.75)
    assert underruns_s == {False: pytest.approx(0.375), True: pytest.approx(0.125)}


# ---- the close


BUSY = b"\x83\xa4type\xa5error\xa7content\xa4full\xa4code\xa4busy"


def test_an_error_is_sent_before_the_close(start):
    end = start().send_close(1013, "full", last=Busy("full"))
    assert (end.unit, end.code, end.reason) == ([BUSY], 1013, "full")


def test_a_client_that_shall_reconnect_hears_it_before_the_close(start):
    end = start().send_close(1012, "drain", last=Reconnect("drain"))
    assert (end.unit, end.code) == ([b"\x82\xa4type\xa9reconnect\xa7content\xa5drain"], 1012)


def test_a_session_that_is_done_closes_without_an_error(start):
    end = start().send_close(1000, "done")
    assert (end.unit, end.code, end.reason) == ([], 1000, "done")


def test_a_connection_may_be_closed_before_its_protocol_starts():
    end = build_close(1013, "full", last=Busy("full"))
    assert (end.unit, end.code, end.reason) == ([BUSY], 1013, "full")


def test_a_reason_is_cut_to_the_size_of_a_close_frame(start):
    end = start().send_close(1012, "é" * 200, last=WorldLost("é" * 200))
    assert end.reason == "é" * 61
    assert msgpack.decode(end.unit[0])["content"] == "é" * 200


def test_no_error_is_sent_while_a_payload_is_pending(start):
    protocol = start()
    protocol.send_session("s1")
    unit = send_batch(protocol, num_bytes=SPLIT_BYTES)
    sent = []
    for num_written in range(3):
        protocol.note_progress(unit, num_written)
        sent.append(protocol.send_close(1013, "full", last=Busy("full")).unit)
    assert sent == [[], [], [BUSY]]


def test_an_error_is_sent_after_a_message_of_one_part(start):
    protocol = start()
    protocol.send_session("s1")
    protocol.note_progress(send_batch(protocol), 0)
    assert protocol.send_close(1013, "full", last=Busy("full")).unit == [BUSY]
