"""Events that change how frames travel."""

import pytest
from msgspec import msgpack

from transport.wire.messages import ControlAck, Encoding


def event(kind, payload, **fields):
    return msgpack.encode({"type": "event", "kind": kind, "payload": payload} | fields)


def change_output(protocol, **fields):
    return protocol.receive(event("output", fields, event_id=5), 0.0)


def test_an_output_event_changes_what_it_names_and_no_more(start):
    protocol = start(extensions=True, realtime_output_format="jpeg", output_compression=70)
    assert change_output(protocol, realtime_output_format="h264") == [ControlAck(5)]
    assert protocol.output.encoding == Encoding(format="h264", quality=70)
    change_output(protocol, output_compression=40, realtime_preview_max_width=320)
    assert protocol.output.encoding == Encoding(format="h264", quality=40, preview_max_width=320)
    change_output(protocol, output_compression=0, realtime_preview_max_width=0)
    assert protocol.output.encoding == Encoding(format="h264")
    change_output(protocol, realtime_output_format="jpeg", realtime_chroma_subsampling="444")
    assert protocol.output.encoding == Encoding(format="jpeg", chroma="444")


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"realtime_output_format": "gif"}, "payload.realtime_output_format"),
        ({"output_compression": 101}, "payload.output_compression"),
        ({"realtime_preview_max_width": -1}, "payload.realtime_preview_max_width"),
        ({"realtime_chroma_subsampling": "422"}, "payload.realtime_chroma_subsampling"),
    ],
)
def test_an_invalid_output_event_changes_nothing(start, fields, field):
    protocol = start(extensions=True)
    answer = change_output(protocol, **fields)
    assert (answer.code, answer.field) == ("invalid_field", field)
    assert protocol.output.encoding == Encoding()


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("output_compresion", "output_compression"),
        ("format", "realtime_output_format"),
        ("Output_Compression", ""),
        ("`x` - at `$.y`" + "z" * 5000, ""),
        ("", ""),
    ],
)
def test_an_unknown_field_of_an_output_event_is_an_error(start, name, nearest):
    protocol = start(extensions=True)
    change = {"realtime_output_format": "jpeg", name: 5}
    composite = {"input_types": ["output"], "output": change}
    for kind, payload, path in (
        ("output", change, "payload."),
        ("composite_input", composite, "payload.output."),
    ):
        error = protocol.receive(event(kind, payload, event_id=5), 0.0)
        assert (error.code, error.event_id) == ("invalid_field", 5)
        assert error.field == path + name[:48]
        assert "realtime_output_format, output_compression, " in error.content
        assert nearest in error.content and len(error.content) < 400
    assert protocol.output.encoding == Encoding()


def test_the_lossless_codec_is_for_clients_with_extensions(start):
    plain, extended = start(), start(extensions=True)
    answer = change_output(plain, realtime_output_format="delta-zstd")
    assert answer.field == "payload.realtime_output_format"
    assert "needs `extensions`" in answer.content
    assert change_output(extended, realtime_output_format="delta-zstd") == [ControlAck(5)]


@pytest.mark.parametrize("payload", [{}, {"payload": None}, {"payload": {"any": 1}}])
def test_a_key_frame_may_be_requested(start, payload):
    protocol = start(extensions=True)
    message = {"type": "event", "kind": "key_frame", "event_id": 6} | payload
    assert protocol.receive(msgpack.encode(message), 0.0) == [ControlAck(6)]
    assert protocol.output.key_frame_wanted


def test_output_and_keys_may_change_together(start):
    protocol = start(extensions=True)
    payload = {
        "input_types": ["camera_actions", "output"],
        "camera_actions": [["w"]],
        "output": {"realtime_output_format": "webp"},
    }
    assert protocol.receive(event("composite_input", payload, event_id=1), 0.0) == [ControlAck(1)]
    assert protocol.output.encoding.format == "webp"
    assert protocol.controls.take_chunk(1).actions == ["w"]
