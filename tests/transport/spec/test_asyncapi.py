"""The AsyncAPI document against the code: every message that is sent or accepted validates."""

from typing import get_args

import pytest
from msgspec import msgpack

from tests.transport.spec.asyncapi_document import DOCUMENT, MESSAGES, SCHEMAS, errors_of
from transport.wire import messages
from transport.wire.errors import ErrorCode
from transport.wire.event import KINDS
from transport.wire.init import read_sizes
from transport.wire.limits import ClientLimits
from transport.wire.messages import (
    ChunkStats,
    ClientMessage,
    ControlAck,
    Ending,
    Error,
    Forked,
    Format,
    HeaderExtras,
    Init,
    LastFrame,
    Layout,
    Moved,
    Paced,
    Paused,
    Queued,
    Reconnect,
    Resumed,
    Rewound,
    ServerMessage,
    SessionLimits,
    SessionOpened,
    SnapshotMessage,
    Starting,
    WarningMessage,
    encode_message,
)
from transport.wire.output_settings import EXTENSION_FORMATS
from transport.wire.protocol import ServerProtocol

# ---- against the Structs


@pytest.mark.parametrize(
    "action, union, more",
    [
        ("receive", ClientMessage, set()),
        ("send", ServerMessage, {"frame_batch_header", "frame_batch", "payload"}),
    ],
)
def test_every_message_has_its_operation(action, union, more):
    tags = {kind.__struct_config__.tag for kind in get_args(union)}
    listed = DOCUMENT["operations"][action]["messages"]
    assert {one["$ref"].rpartition("/")[2] for one in listed} == tags | more


def structs():
    listed = [*get_args(ClientMessage | ServerMessage), *get_args(Layout), HeaderExtras]
    return [*listed, messages.FrameBatchHeader, messages.HeldKeys, messages.OutputChange]


@pytest.mark.parametrize("struct", structs(), ids=lambda struct: struct.__name__)
def test_every_field_of_a_struct_is_described(struct):
    described = SCHEMAS[struct.__name__]
    tag = {"type"} if struct.__struct_config__.tag else set()
    assert described["properties"].keys() == {*struct.__struct_fields__} | tag


def test_every_kind_of_event_has_a_payload():
    kinds = SCHEMAS["Event"]["properties"]["kind"]["enum"]
    assert sorted(kinds) == sorted(KINDS)
    assert {f"{kind}_payload" for kind in KINDS} <= SCHEMAS.keys()
    assert len(SCHEMAS["Event"]["allOf"]) == len(KINDS)


def test_every_code_and_every_format_has_a_meaning():
    assert DOCUMENT["x-error-codes"].keys() == set(get_args(ErrorCode))
    assert DOCUMENT["x-close-codes"].keys() == {"1000", "1008", "1009", "1011", "1012", "1013"}
    assert DOCUMENT["x-formats"].keys() == set(get_args(Format))
    for name in ("x-error-codes", "x-close-codes"):
        assert all(DOCUMENT[name].values())
        for code in DOCUMENT[name]:
            assert f"| `{code}` |" in DOCUMENT["info"]["description"]


def test_extensions_are_marked():
    marked = {name for name, about in MESSAGES.items() if about.get("x-extension")}
    status = {"queued", "starting", "paused", "resumed", "paced", "ending"}
    worlds = {"snapshot", "forked", "rewound", "moved", "last_frame", "reconnect"}
    assert marked == {"ack", "session", "control_ack", "warning"} | status | worlds
    fields = SCHEMAS["Init"]["properties"]
    assert fields["realtime_delivery"]["x-extension"]
    assert "x-extension" not in fields["prompt"]
    formats = DOCUMENT["x-formats"].items()
    assert {name for name, about in formats if about["x-extension"]} == {*EXTENSION_FORMATS}


def test_comments_of_fields_are_their_descriptions():
    assert (
        SCHEMAS["Init"]["properties"]["size"]["description"]
        == '"WxH"; the nearest served size is used'
    )
    assert SCHEMAS["CompositeInput"]["description"]
    assert "in flight" in DOCUMENT["info"]["description"]  # how acks work


# ---- against messages of the server


STATS = ChunkStats(
    **dict.fromkeys(ChunkStats.__struct_fields__, 0)
    | {"session_id": "s", "request_id": "s-0", "content_type": "image/jpeg", "event_id": None}
)
SESSION = SessionOpened(
    session_id="s",
    width=832,
    height=480,
    fps=16,
    chunk_latent_frames=3,
    first_chunk_frames=9,
    chunk_frames=12,
    encoding="h264",
    limits=SessionLimits(
        max_event_bytes=65536,
        max_script_latent_frames=512,
        max_prompt_chars=8000,
        max_unacknowledged_chunks=2,
    ),
)
SENT = [
    STATS,
    SESSION,
    Queued(3, all_taken=True, estimate_s=20),
    Starting(),
    Paused("idle"),
    Resumed(),
    Paced(60),
    Ending("longest_session", in_s=60),
    SnapshotMessage(event_id=3, world_chunk_index=4, data=b"PK"),
    Forked(event_id=None, world_chunk_index=4, token="f.1", expires_in_s=600),
    Rewound(event_id=3, world_chunk_index=4, seed=7),
    Moved(4),
    LastFrame(content_type="image/jpeg", data=b"JPEG"),
    Reconnect("the server is replaced"),
    ControlAck(9),
    WarningMessage("h264 failed", "codec_failed"),
    *(Error(content="why", code=code) for code in get_args(ErrorCode)),
    Error(content="why", code="invalid_field", field="size", event_id=7, retry_after_s=30),
]


@pytest.mark.parametrize("message", SENT, ids=lambda message: type(message).__name__)
def test_a_server_message_validates_and_with_a_wrong_type_does_not(message):
    fields = msgpack.decode(encode_message(message))
    assert errors_of(fields) == []
    for name in fields.keys() - {"type"}:
        assert errors_of(fields | {name: [b"wrong"]}) != []


# ---- against messages of a client

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
