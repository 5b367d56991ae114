"""Hostile bytes raise only the errors of this room, and every reply can be encoded."""

import random
from typing import get_args

import msgspec
import msgspec.inspect as kinds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import msgpack
from msgspec.structs import fields as fields_of

from transport.wire.controls import KEYS
from transport.wire.decoding import decode_field, decode_message
from transport.wire.errors import BadMessage, TransportError, truncate_reason
from transport.wire.init import SessionRequest
from transport.wire.limits import ClientLimits
from transport.wire.messages import (
    ClientMessage,
    HeldKeys,
    Init,
    OutputChange,
    ServerMessage,
    encode_message,
)
from transport.wire.protocol import ServerProtocol, State
from transport.wire.world_command import ResetWorld, RewindWorld

NUM_STRINGS = 200_000  # for the decoder, and as many for protocols
NUM_SHARES = 8  # tests that share them
LONGEST_ANSWER = 700
LIMITS = ClientLimits(max_init_bytes=4096, max_event_bytes=2048, max_errors=40)

# ---- messages from their Structs

texts = st.text(max_size=20)
integers = st.integers(-(2**63), 2**64 - 1)
wire_values = st.recursive(
    st.booleans() | integers | st.floats(allow_nan=False) | texts | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
CLIENT_STRUCTS = [*get_args(ClientMessage), HeldKeys, OutputChange, RewindWorld, ResetWorld]


SIMPLE = {
    kinds.NoneType: lambda _: st.none(),
    kinds.BoolType: lambda _: st.booleans(),
    kinds.FloatType: lambda kind: st.floats(
        kind.gt, kind.le, allow_nan=False, exclude_min=kind.gt is not None
    ),
    kinds.BytesType: lambda _: st.binary(max_size=30),
    kinds.RawType: lambda _: wire_values,
    kinds.StrType: lambda kind: st.text(
        min_size=kind.min_length or 0, max_size=min(kind.max_length or 30, 30)
    ),
    kinds.IntType: lambda kind: st.integers(
        -(2**63) if kind.ge is None else kind.ge, 2**64 - 1 if kind.le is None else kind.le
    ),
    kinds.LiteralType: lambda kind: st.sampled_from(kind.values),
}


def values_of(kind):
    """Valid values for a field of this type, as a client writes them."""
    match kind:
        case kinds.ListType():
            return st.lists(values_of(kind.item_type), min_size=kind.min_length or 0, max_size=4)
        case kinds.UnionType():
            return st.one_of([values_of(one) for one in kind.types])
        case kinds.StructType():
            return maps_of(kind)
    return SIMPLE[type(kind)](kind)


def maps_of(struct):
    """A Struct as a client writes it, with any subset of its optional fields."""
    tag = {} if struct.tag is None else {struct.tag_field: st.just(struct.tag)}
    values = {one.encode_name: (one.required, values_of(one.type)) for one in struct.fields}
    return st.fixed_dictionaries(
        tag | {name: value for name, (required, value) in values.items() if required},
        optional={name: value for name, (required, value) in values.items() if not required},
    )


def read(struct, fields):
    """Decodes a message by its tag, and a payload by its field."""
    data = msgpack.encode(fields)
    if struct.__struct_config__.tag is not None:
        return decode_message(data)
    return decode_field(msgspec.Raw(data), struct, field="payload")


def as_written(message):
    """The fields of a decoded Struct, with untyped ones decoded, too."""
    if isinstance(message, msgspec.Raw):
        return msgpack.decode(message)
    if isinstance(message, list):
        return [as_written(one) for one in message]
    if not isinstance(message, msgspec.Struct):
        return message
    values = {name: getattr(message, name) for name in message.__struct_fields__}
    return {name: as_written(value) for name, value in values.items() if value != msgspec.Raw()}


def agree(read, written):
    """Returns True if all written values were read. Other fields hold their defaults."""
    if isinstance(written, dict) and isinstance(read, dict):
        return all(agree(read[name], written[name]) for name in written if name != "type")
    if isinstance(written, list) and isinstance(read, list):
        return len(read) == len(written) and all(map(agree, read, written))
    return read == written


@pytest.mark.parametrize("struct", CLIENT_STRUCTS, ids=lambda struct: struct.__name__)
def test_a_message_from_its_struct_is_read_back(struct):
    @settings(derandomize=True, max_examples=150)
    @given(maps_of(kinds.type_info(struct)))
    def run(fields):
        message = read(struct, fields)
        assert isinstance(message, struct)
        assert agree(as_written(message), fields)

    run()


ODD_VALUES = [None, True, -1, 0, 61, 2**64 - 1, 1.5, "x", "x" * 8001, b"x", [], [5], {}, {"a": 1}]


def wrong_values():
    """(Struct, field, value) for every field and each odd value of another type."""
    for struct in CLIENT_STRUCTS:
        for field in fields_of(struct):
            for value in ODD_VALUES if field.type is not msgspec.Raw else []:
                try:
                    msgpack.decode(msgpack.encode(value), type=field.type, strict=False)
                except msgspec.ValidationError:
                    yield struct, field.name, value


@pytest.mark.parametrize("struct", CLIENT_STRUCTS, ids=lambda struct: struct.__name__)
def test_a_field_of_another_type_is_named(struct):
    cases = [case[1:] for case in wrong_values() if case[0] is struct]
    assert {name for name, _ in cases} >= {one.name for one in fields_of(struct) if one.required}

    @settings(derandomize=True, max_examples=150)
    @given(maps_of(kinds.type_info(struct)), st.sampled_from(cases))
    def run(fields, case):
        name, value = case
        with pytest.raises(BadMessage) as caught:
            read(struct, fields | {name: value})
        field = caught.value.field.removeprefix("payload.")
        assert field.partition("[")[0].partition(".")[0] == name
        assert caught.value.code in ("invalid_field", "missing_field")

    run()


# ---- bytes

SCRIPT = [["w"], [], ["w", "l"], list(KEYS)]
HELD = {"mode": "state", "transitions": [{"actions": ["w", "j"], "client_ts_ms": 1.5}]}
OUTPUT = {"realtime_output_format": "h264", "output_compression": 80}
EVENTS = [
    ("camera_actions", SCRIPT),
    ("camera_actions", [["s"]] * 40),
    ("camera_actions", HELD),
    ("prompt", "a hill in fog"),
    ("output", OUTPUT),
    ("key_frame", None),
    ("visibility", "hidden"),
    ("composite_input", {"input_types": ["prompt", "output"], "prompt": "snow", "output": OUTPUT}),
    ("composite_input", {"input_types": ["camera_actions"], "camera_actions": HELD}),
    ("fly", {"up": 1}),
    ("save", None),
    ("fork", None),
    ("rewind", {"chunk_index": 3}),
    ("rewind", {"seconds": 2.5}),
    ("reset", {"seed": 7, "prompt": "snow"}),
]
INITS = [
    {},
    {"prompt": "a hill", "size": "832x480", "seed": 7, "fps": 16, "first_frame": "aGVsbG8="},
    {"extensions": True, "realtime_delivery": "latest", "first_frame": b"\x89PNG" * 20},
    {"extensions": True, "realtime_output_format": "webp", "realtime_output_pacing": False},
    {"condition_inputs": {"camera_actions": SCRIPT}, "realtime_causal_kv_cache_num_frames": 21},
    {"extensions": True, "snapshot": b"PK\x03\x04" * 20, "prompt": "snow"},
    {"extensions": True, "fork": "f.1"},
    {"extensions": True, "resume": "group.session.secret", "size": "832x480"},
]
CORPUS = [
    *(msgpack.encode({"type": "init"} | fields) for fields in INITS),
    *(
        msgpack.encode({"type": "event", "kind": kind, "payload": payload, "event_id": 3})
        for kind, payload in EVENTS
    ),
    msgpack.encode({"type": "ack", "chunk_index": 0}),
]
LENGTHS = [  # MessagePack headers of lengths beyond the data
    *(bytes([tag]) + b"\xff" * 4 for tag in (0xC6, 0xDB, 0xDD, 0xDF)),
    *(bytes([tag]) + b"\x7f\xff" for tag in (0xC5, 0xDA, 0xDC, 0xDE)),
    *(bytes([tag]) + b"\xff" for tag in (0xC4, 0xD9, 0xC7)),
    b"\xdb\x7f\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x00",
]
WRAPPERS = [b"\x91", b"\x81\xa1x", b"\xdc\x00\x01", b"\x81\xa4type"]


def flip_bits(rng, data):
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng, data):
    return data[: rng.randrange(len(data))]


def splice(rng, data):
    other = rng.choice(CORPUS)
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def corrupt_length(rng, data):
    at, lie = rng.randrange(len(data)), rng.choice(LENGTHS)
    return data[:at] + lie + data[at + rng.choice([0, 1, len(lie)]) :]


def nest(rng, data):
    at, depth = rng.randrange(len(data)), int(2 ** rng.uniform(0, 11))
    return data[:at] + rng.choice(WRAPPERS) * depth + data[at:]


def replace_value(rng, data):
    """A well-formed message with one wrong value, for the checks behind the decoder."""
    fields = node = msgpack.decode(data)
    while True:
        items = [*node] if isinstance(node, dict) else [*range(len(node))]
        place = rng.choice([*items, "size", "payload"] if node is fields else items)
        inner = node.get(place) if isinstance(node, dict) else node[place]
        if not inner or not isinstance(inner, dict | list) or rng.random() < 0.3:
            node[place] = rng.choice(ODD_VALUES)
            return msgpack.encode(fields)
        node = inner


MUTATIONS = [flip_bits, truncate, splice, corrupt_length, nest, replace_value]


def hostile(rng, num):
    """One half is noise, the other half valid messages with one or two mutations."""
    for turn in range(num):
        if turn % 2:
            yield rng.randbytes(rng.randrange(48))
            continue
        data = rng.choice(MUTATIONS)(rng, rng.choice(CORPUS))
        if data and rng.random() < 0.2:
            data = rng.choice(MUTATIONS[:-1])(rng, data)
        yield data


def open_protocol(world, rng):
    """A new protocol. Two of three have accepted an init."""
    protocol = ServerProtocol(world.info, limits=LIMITS)
    if chance := rng.randrange(3):
        init = {"type": "init", "extensions": chance == 2}
        assert isinstance(protocol.receive(msgpack.encode(init), 0.0), SessionRequest)
    return protocol


def check(effect, protocol):
    for reply in effect if isinstance(effect, list) else [effect]:
        if not isinstance(reply, ServerMessage):
            continue
        data = encode_message(reply)
        assert msgpack.decode(data)["type"] in ("error", "control_ack", "warning")
        assert len(data) <= LONGEST_ANSWER
    if protocol.state is State.RUNNING:
        while (command := protocol.commands.take(0.0)) is not None:
            assert protocol.request.extensions
            protocol.begin_course(command.course)
        for action in protocol.controls.take_chunk(3).actions:
            assert set(action) <= set(KEYS)


@pytest.mark.parametrize("seed", range(NUM_SHARES))
def test_hostile_bytes_are_decoded_or_refused(seed):
    rng = random.Random(seed)
    num_good = 0
    for data in hostile(rng, NUM_STRINGS // NUM_SHARES):
        try:
            assert isinstance(decode_message(data), ClientMessage)
            num_good += 1
        except BadMessage as error:
            assert error.code in ("malformed", "unknown_type", "missing_field", "invalid_field")
            assert len(str(error).encode()) <= LONGEST_ANSWER
    assert num_good > 100  # some mutations are valid


@pytest.mark.parametrize("seed", range(NUM_SHARES))
def test_hostile_bytes_are_answered_or_end_the_connection(seed, world):
    rng = random.Random(seed)
    protocol, num_effects, num_endings = open_protocol(world, rng), {}, 0
    for turn, data in enumerate(hostile(rng, NUM_STRINGS // NUM_SHARES)):
        try:
            effect = protocol.receive(data, 0.0)
        except TransportError as error:
            assert error.close_code is not None
            assert len(truncate_reason(str(error)).encode()) <= 123
            num_endings += 1
        else:
            check(effect, protocol)
            name = type(effect).__name__
            num_effects[name] = num_effects.get(name, 0) + 1
            if turn % 64:
                continue
        protocol = open_protocol(world, rng)
    assert num_effects.keys() >= {"Error", "list", "SessionRequest"}
    assert num_endings > 100


@pytest.mark.parametrize("text", ["", "{}", "\ud800", "x" * 5000])
def test_text_is_answered(text, world):
    answer = ServerProtocol(world.info, limits=LIMITS).receive(text, 0.0)
    assert answer.code == "text_frame"
    encode_message(answer)


# ---- regressions


def test_an_unknown_choice_is_not_quoted_at_length():
    with pytest.raises(BadMessage) as caught:
        decode_message(msgpack.encode({"type": "init", "realtime_delivery": "x" * 60_000}))
    assert caught.value.field == "realtime_delivery"
    assert len(str(caught.value)) < LONGEST_ANSWER


def test_a_value_is_not_read_as_a_path():
    value = "x - at `$.seed`"
    with pytest.raises(BadMessage) as caught:
        decode_message(msgpack.encode({"type": "init", "realtime_chroma_subsampling": value}))
    assert caught.value.field == "realtime_chroma_subsampling"


def test_any_number_of_chunks_is_generated_or_refused(server):
    for max_chunks in (2**63 - 1, 2**63, 2**64 - 1):
        with server.dial() as peer:
            peer.init(max_chunks=max_chunks)
            assert peer.read().get("code") in (None, "invalid_field")


def test_no_valid_init_is_an_internal_error(server):
    @settings(derandomize=True, max_examples=60)
    @given(maps_of(kinds.type_info(Init)))
    def run(fields):
        fields.pop("first_frame", None)  # images have tests of their own
        with server.dial() as peer:
            peer.send(**fields)
            assert peer.read().get("code") != "internal"

    run()
