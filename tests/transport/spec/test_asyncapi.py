"""The AsyncAPI document against the code: every message that is sent or accepted validates."""

from typing import get_args

import numpy as np
import pytest
from jsonschema import Draft7Validator
from msgspec import json, msgpack
from starlette.testclient import TestClient

from tests.transport.spec.validation import DOCUMENT, MESSAGES, Validator, errors_of
from transport.app import build_app
from transport.codecs import open_encoder
from transport.codecs.payload import build_header, split_chunk
from transport.paths import SOCKET_PATH
from transport.wire import messages
from transport.wire.errors import ErrorCode
from transport.wire.event import KINDS
from transport.wire.messages import (
    AppliedControls,
    ChunkStats,
    ClientMessage,
    ControlAck,
    Encoding,
    Ending,
    Error,
    Forked,
    Format,
    HeaderExtras,
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
    encode_batch,
    encode_message,
)
from transport.wire.output_settings import EXTENSION_FORMATS

SCHEMAS = DOCUMENT["components"]["schemas"]
EXTRAS = HeaderExtras(AppliedControls([["w"], [], []], [4]), 7, cut_over=True, dropped_frames=12)


def refs(node):
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from refs(inner)


def batches(encoding, *, size=(64, 32), extras=None):
    """All parts of one chunk, as a client reads them."""
    chunk = np.random.default_rng(0).integers(0, 255, (9, *reversed(size), 3), np.uint8)
    encoder = open_encoder(encoding, fps=16)
    split, parts = split_chunk(chunk, encoder), []
    for index, batch in enumerate(split):
        payload = encoder.encode(batch)
        header = build_header(
            payload,
            request_id="s-0",
            chunk_index=0,
            index=index,
            num_batches=len(split),
            event_id=3,
        )
        parts.append(encode_batch(header, payload.layout, payload.data, extras=extras))
    return parts


# ---- the document


def test_every_reference_resolves():
    for ref in refs(DOCUMENT):
        place = DOCUMENT
        for name in ref.removeprefix("#/").split("/"):
            place = place[name]


def test_every_schema_is_valid():
    for schema in SCHEMAS.values():
        Draft7Validator.check_schema(schema)


def test_the_rules_of_asyncapi_3_hold():
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= DOCUMENT["info"].keys()
    (channel,) = DOCUMENT["channels"].values()
    assert channel["address"] == SOCKET_PATH
    assert channel["bindings"]["ws"]["method"] == "GET"
    assert channel["messages"].keys() == MESSAGES.keys()
    for action, operation in DOCUMENT["operations"].items():
        assert operation["action"] == action
        assert operation["channel"] == {"$ref": "#/channels/realtime"}
        for message in operation["messages"]:  # the channel's messages, not the components'
            assert message["$ref"].startswith("#/channels/realtime/messages/")
    for name in [*SCHEMAS, *MESSAGES]:
        assert name.replace("_", "").replace("-", "").isalnum()


def test_it_is_json():
    assert json.decode(json.encode(DOCUMENT)) == DOCUMENT


def test_it_is_served(world):
    with TestClient(build_app(world)) as http:
        answer = http.get("/asyncapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == DOCUMENT


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


@pytest.mark.parametrize("extras", [None, EXTRAS])
@pytest.mark.parametrize("name", get_args(Format))
def test_the_header_of_every_codec_validates(name, extras):
    for encoding in (Encoding(format=name), Encoding(format=name, preview_max_width=32)):
        for size in ((64, 32), (256, 128)):
            for header, *_ in batches(encoding, size=size, extras=extras):
                assert errors_of(msgpack.decode(header)) == []


def test_a_header_and_a_whole_batch_have_different_types():
    ((small,),) = batches(Encoding(format="raw"))[:1]
    header, payload = batches(Encoding(format="raw"), size=(256, 128))[0]
    assert msgpack.decode(small)["type"] == "frame_batch"
    assert msgpack.decode(header)["type"] == "frame_batch_header"
    schema = MESSAGES["payload"]["payload"]
    assert Validator(schema).is_valid(bytes(payload))
    assert not Validator(schema).is_valid("text")


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": "text"},
        {"payload": None},
        {"width": "64"},
        {"encoding": "av1"},
        {"encoding": "jpeg"},  # has another layout
        {"num_frames": 1.5},
        {"applied_controls": {"actions": [["w"]]}},
        {"applied_controls": {"actions": [[1]], "event_ids": []}},
        {"type": "frame_batch_header", "chunk_index": None},
    ],
)
def test_a_header_with_a_wrong_field_does_not_validate(changes):
    fields = msgpack.decode(batches(Encoding(format="raw"))[0][0])
    assert errors_of(fields) == []
    assert errors_of(fields | changes) != []


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
    *(Error("why", code) for code in get_args(ErrorCode)),
    Error("why", "invalid_field", "size", 7, 30),
]


@pytest.mark.parametrize("message", SENT, ids=lambda message: type(message).__name__)
def test_a_server_message_validates_and_with_a_wrong_type_does_not(message):
    fields = msgpack.decode(encode_message(message))
    assert errors_of(fields) == []
    for name in fields.keys() - {"type"}:
        assert errors_of(fields | {name: [b"wrong"]}) != []
