"""The AsyncAPI document against the messages of a client that the server accepts and refuses."""

import pytest
from msgspec import msgpack

from tests.transport.spec.validation import errors_of
from transport.wire.init import read_sizes
from transport.wire.limits import ClientLimits
from transport.wire.messages import Error, Init
from transport.wire.protocol import ServerProtocol

SCRIPT = [["w"], [], ["w", "l"]]
HELD = {"mode": "state", "transitions": [{"actions": ["w"], "client_ts_ms": 1.5}]}
OUTPUT = {"realtime_output_format": "h264", "output_compression": 80}
INITS = [
    {},
    dict.fromkeys(Init.__struct_fields__),
    {"prompt": "a hill", "first_frame": b"\x89PNG", "size": "832x480", "seed": 2**63 - 1},
    {"first_frame": "aGk=", "seed": -1, "fps": 60.0, "max_chunks": 1, "condition_inputs": {}},
    {"condition_inputs": {"camera_actions": SCRIPT}, "extensions": True},
    {"realtime_output_format": "webp", "realtime_chroma_subsampling": "444"},
    {"extensions": True, "realtime_output_format": "delta-zstd", "realtime_cut_over": True},
    {"extensions": True, "realtime_delivery": "latest", "realtime_output_pacing": False},
    {"extensions": True, "snapshot": b"PK", "prompt": "snow"},
    {"extensions": True, "fork": "f.1"},
    {"extensions": True, "resume": "g.s.x"},
]
EVENTS = [
    ("camera_actions", SCRIPT),
    ("camera_actions", HELD),
    ("camera_actions", [["W", "q"]] * 513),
    ("camera_actions", HELD | {"transitions": []}),
    ("prompt", "snow"),
    ("output", OUTPUT),
    ("output", {}),
    ("key_frame", None),
    ("save", None),
    ("fork", None),
    ("rewind", {"chunk_index": 3}),
    ("rewind", {"chunk_index": None, "seconds": 2.5}),
    ("reset", None),
    ("reset", {"seed": -1, "prompt": "snow"}),
    ("composite_input", {"input_types": ["prompt"], "prompt": "rain"}),
    (
        "composite_input",
        {
            "input_types": ["camera_actions", "prompt", "output", "key_frame"],
            "camera_actions": HELD,
            "prompt": "fog",
            "output": OUTPUT,
        },
    ),
]
WRONG_INITS = [
    ("prompt", "x" * 8001),
    ("seed", 2**63),
    ("fps", 61),
    ("size", "large"),
    ("size", "0x480"),
    ("first_frame", 5),
    ("realtime_output_format", "av1"),
    ("realtime_chroma_subsampling", "411"),
    ("condition_inputs", []),
    ("condition_inputs", {"camera_actions": [[5]]}),
    ("condition_inputs", {"camera_actions": HELD}),
    ("extensions", 2),
    ("snapshot", "text"),
    ("fork", ""),
    ("resume", "x" * 257),
]
WRONG_EVENTS = [
    ("fly", None),
    ("prompt", ""),
    ("prompt", None),
    ("prompt", 5),
    ("camera_actions", ["w"]),
    ("camera_actions", HELD | {"mode": "events"}),
    ("output", {"output_compression": 101}),
    ("output", {"output_compresion": 10}),
    ("output", {"realtime_output_format": "av1"}),
    ("output", []),
    ("rewind", None),
    ("rewind", {}),
    ("rewind", {"chunk_index": 3, "seconds": 1}),
    ("rewind", {"chunk_index": -1}),
    ("rewind", {"seconds": 0}),
    ("reset", {"prompt": ""}),
    ("reset", {"seeds": 1}),
    ("reset", []),
    ("composite_input", {"input_types": ["save"]}),
    ("composite_input", {}),
    ("composite_input", {"input_types": []}),
    ("composite_input", {"input_types": ["prompt"]}),
    ("composite_input", {"input_types": ["prompt", "prompt"], "prompt": "x"}),
    ("composite_input", {"input_types": ["composite_input"]}),
    ("composite_input", {"input_types": ["prompt"], "prompt": 5}),
]


def accepts(world, *sent):
    """True if the server answers none of these messages with an error."""
    conversation = ServerProtocol(world.info, limits=ClientLimits())
    answers = [conversation.receive(msgpack.encode(fields), 0.0) for fields in sent]
    return not any(isinstance(answer, Error) for answer in answers)


@pytest.mark.parametrize("fields", INITS)
def test_an_accepted_init_validates(fields, world):
    fields = {"type": "init"} | fields
    assert accepts(world, fields)
    assert errors_of(fields) == []


@pytest.mark.parametrize("kind, payload", EVENTS)
def test_an_accepted_event_validates(kind, payload, world):
    event = {"type": "event", "kind": kind, "payload": payload, "event_id": 3}
    assert accepts(world, {"type": "init", "extensions": True}, event)
    assert errors_of(event) == []


def test_an_ack_validates(world):
    ack = {"type": "ack", "chunk_index": 0}
    assert errors_of(ack) == []
    assert errors_of(ack | {"chunk_index": -1}) != []
    assert errors_of({"type": "ack"}) != []


@pytest.mark.parametrize("name, value", WRONG_INITS)
def test_a_refused_init_does_not_validate(name, value, world):
    fields = {"type": "init", "extensions": True, name: value}
    assert not accepts(world, fields)
    assert errors_of(fields) != []


@pytest.mark.parametrize("kind, payload", WRONG_EVENTS)
def test_a_refused_event_does_not_validate(kind, payload, world):
    event = {"type": "event", "kind": kind, "payload": payload}
    assert not accepts(world, {"type": "init", "extensions": True}, event)
    assert errors_of(event) != []


@pytest.mark.parametrize("size", ["1x1", "8192x8192", "832x480"])
def test_an_accepted_size_validates(size, world):
    read_sizes(size, world.info)
    assert errors_of({"type": "init", "size": size}) == []
