"""The wire as an AsyncAPI document, built from the Structs that are encoded and decoded."""

from collections.abc import Iterable
from types import ModuleType
from typing import Annotated, Any, Literal, get_args

from msgspec import UNSET, Meta, Struct, UnsetType, defstruct

from transport.codecs import delta, h264
from transport.paths import SOCKET_PATH
from transport.spec.schema import (
    BYTES,
    EXTENSION,
    Schema,
    build_schemas,
    extend,
    first_line,
    narrow,
    refer,
)
from transport.wire import controls, errors, idle, messages, pacing, protocol, speed, world_command
from transport.wire.controls import MAX_SCRIPT_LATENT_FRAMES
from transport.wire.errors import TransportError
from transport.wire.event import KINDS, PART_KINDS
from transport.wire.messages import (
    MAX_PROMPT_CHARS,
    ClientMessage,
    Event,
    Format,
    Init,
    ServerMessage,
)
from transport.wire.output_settings import EXTENSION_FORMATS
from transport.wire.world_command import ResetWorld, RewindWorld

# Types of fields that the Structs leave open and later checks narrow.
KEY_MEANINGS = "w a s d walk, j l turn, i k look up and down"
Keys = Annotated[
    list[str],
    Meta(
        description=f"Held in one latent frame: {KEY_MEANINGS}. Case is folded, and other strings "
        "are left out."
    ),
]
Script = Annotated[
    list[Keys], Meta(description=f"The last {MAX_SCRIPT_LATENT_FRAMES} latent frames are played.")
]
Image = Annotated[
    Any, Meta(extra_json_schema={"anyOf": [BYTES, {"type": "string"}, {"type": "null"}]})
]
Size = Annotated[str, Meta(pattern="^[1-9][0-9]{0,3}x[1-9][0-9]{0,3}$")]
NewPrompt = Annotated[str, Meta(min_length=1, max_length=MAX_PROMPT_CHARS)]

WITHOUT_PAYLOAD = ("key_frame", "save", "fork", "reset")

# The layout of each format's header, and the codec's module where its docstring adds to that.
FORMATS: dict[Format, tuple[type[Struct], ModuleType | None]] = {
    "raw": (messages.RawLayout, None),
    "jpeg": (messages.EncodedLayout, None),
    "webp": (messages.EncodedLayout, None),
    "h264": (messages.VideoLayout, h264),
    "delta-zstd": (messages.RawLayout, delta),
}
ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, TransportError) and kind is not TransportError
]
ERROR_CODES: dict[str, str] = {
    "malformed": "not a MessagePack map, or not in the form of a message",
    "text_frame": "every message travels in a binary frame",
    "unknown_type": "`type` is not one that a client may send",
    "unknown_kind": "`kind` is not the kind of an event",
    "missing_field": "`field` is missing",
    "queue_full": "more messages behind a second `init` than are kept",
    "too_many_errors": "too many invalid messages in a minute",
    "timeout": "no valid init, or no ack, in time",
    "unauthorized": "no valid token",
    "forbidden": "this origin, or this token, may not do it",
    # The docstring of an exception explains the code that it carries by default.
    **{kind.code: first_line(kind.__doc__) for kind in ERRORS},
}


def build_asyncapi() -> Schema:
    """The AsyncAPI 3.0.0 document."""
    received, sent = _by_tag(_client_structs()), _by_tag(get_args(ServerMessage))
    frames = _by_tag([messages.FrameBatchHeader, _FRAME_BATCH])
    structs = received | frames | sent
    about = {tag: _message(tag, kind) for tag, kind in structs.items()} | {"payload": _PAYLOAD}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "lingbot-serve", "version": "1", "description": _overview()},
        "defaultContentType": "application/msgpack",
        "channels": {
            "realtime": {
                "address": SOCKET_PATH,
                "description": protocol.__doc__,
                "messages": {name: refer(name, of="messages") for name in about},
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
            }
        },
        "operations": {
            "receive": _operation("receive", "Messages that a client may send.", received),
            "send": _operation("send", "Messages to a client.", [*frames, "payload", *sent]),
        },
        "components": {"messages": about, "schemas": _struct_schemas([*structs.values()])},
        "x-close-codes": _close_codes(),
        "x-error-codes": ERROR_CODES,
        "x-formats": {
            name: {"layout": layout.__name__, "x-extension": name in EXTENSION_FORMATS}
            for name, (layout, _) in FORMATS.items()
        },
    }


_FRAME_BATCH = extend(
    messages.FrameBatchHeader, tag="frame_batch", name="FrameBatch", payload=bytes
)
_PAYLOAD: Schema = {
    "name": "payload",
    "summary": "The binary frame right after a `frame_batch_header`: `total_size` bytes.",
    "contentType": "application/octet-stream",
    "payload": BYTES,
}


def _by_tag(structs: Iterable[type[Struct]]) -> dict[str, type[Struct]]:
    return {str(struct.__struct_config__.tag): struct for struct in structs}


def _client_structs() -> list[type[Struct]]:
    """Messages that a client may send, with their untyped fields narrowed as checks do."""
    inputs = narrow(messages.ConditionInputs, camera_actions=Script | None)
    narrowed = {
        Init: narrow(
            Init,
            first_frame=Image,
            size=Size | None,
            realtime_output_format=Format | None,
            condition_inputs=inputs | None,
        ),
        Event: narrow(Event, kind=Literal[KINDS], payload=Any),
    }
    return [narrowed.get(kind, kind) for kind in get_args(ClientMessage)]


def _payload_types() -> dict[str, Any]:
    """The type of an event's payload by its kind."""
    transition = narrow(messages.Transition, actions=Keys)
    transitions: Any = list[transition]  # type: ignore[valid-type]  # built two lines above
    held = narrow(
        messages.HeldKeys,
        mode=Literal["state"],
        transitions=transitions,
    )
    kinds: dict[str, Any] = {
        "camera_actions": Script | held,
        "prompt": NewPrompt,
        "output": narrow(messages.OutputChange, realtime_output_format=Format | None),
        "key_frame": Any,
        "visibility": Literal["hidden", "visible"],
    }
    listed: Any = list[Literal[PART_KINDS]]  # type: ignore[valid-type]
    listed = Annotated[listed, Meta(min_length=1, extra_json_schema={"uniqueItems": True})]
    parts = [(kind, payload | UnsetType, UNSET) for kind, payload in kinds.items()]
    about = {"__doc__": "Several kinds at once, all or none, each listed once."}
    composite = defstruct("CompositeInput", [("input_types", listed), *parts], namespace=about)
    return kinds | {
        "composite_input": composite,
        "save": Any,
        "fork": Any,
        "rewind": RewindWorld,
        "reset": ResetWorld | None,
    }


def _layouts() -> list[Any]:
    """Each layout, narrowed to the encodings that use it."""
    encodings: dict[type[Struct], list[str]] = {}
    for name, (layout, _) in FORMATS.items():
        encodings.setdefault(layout, []).append(name)
    return [narrow(layout, encoding=Literal[tuple(names)]) for layout, names in encodings.items()]


def _struct_schemas(structs: list[Any]) -> dict[str, Schema]:
    """Schemas of the messages, layouts and payloads by name, with the conditions between them."""
    payloads, layouts = _payload_types(), _layouts()
    plain, schemas = build_schemas([*payloads.values(), *layouts, messages.HeaderExtras, *structs])
    for kind, schema in zip(payloads, plain, strict=False):
        schemas[f"{kind}_payload"] = schema
    schemas["CompositeInput"]["allOf"] = [
        {
            "if": {"properties": {"input_types": {"contains": {"const": kind}}}},
            "then": {"required": [kind]},
        }
        for kind in PART_KINDS
        if kind != "key_frame"
    ]
    schemas["RewindWorld"]["oneOf"] = [
        {"required": [name], "properties": {name: {"type": "number"}}}
        for name in RewindWorld.__struct_fields__
    ]
    schemas["Event"]["allOf"] = [
        {
            "if": {"properties": {"kind": {"const": kind}}},
            "then": {
                "properties": {"payload": refer(f"{kind}_payload")},
                "required": [] if kind in WITHOUT_PAYLOAD else ["payload"],
            },
        }
        for kind in payloads
    ]
    for header in ("FrameBatchHeader", "FrameBatch"):  # a layout is in the same map
        schemas[header]["allOf"] = [
            {"oneOf": [refer(layout.__name__) for layout in layouts]},
            {"if": {"required": ["applied_controls"]}, "then": refer("HeaderExtras")},
        ]
    return schemas


def _message(tag: str, struct: type[Struct]) -> Schema:
    about: Schema = {"name": tag, "payload": refer(struct.__name__)}
    if struct.__doc__:
        about["summary"] = first_line(struct.__doc__)
    if EXTENSION.match(struct.__doc__ or ""):
        about["x-extension"] = True
    return about


def _operation(action: str, summary: str, names: Iterable[str]) -> Schema:
    channel = "#/channels/realtime"
    return {
        "action": action,
        "channel": {"$ref": channel},
        "summary": summary,
        "messages": [{"$ref": f"{channel}/messages/{name}"} for name in names],
    }


def _close_codes() -> dict[str, str]:
    """Meanings by close code; the codes are strings, as keys of JSON objects must be."""
    codes = {str(kind.close_code): first_line(kind.__doc__) for kind in ERRORS if kind.close_code}
    codes |= {
        "1000": "Done; an error before it says that the session was ended.",
        "1008": "Refused; the error before it gives the reason.",
        "1012": "The world is lost, after an error; after `reconnect`, it goes on elsewhere.",
    }
    return dict(sorted(codes.items()))


def _overview() -> str:
    """The document's description, in Markdown."""
    formats: dict[str, str] = {
        name: f"{layout.__doc__} {codec.__doc__ if codec else ''}"
        for name, (layout, codec) in FORMATS.items()
    }
    return "\n\n".join(
        [
            *(
                (page.__doc__ or "").strip()
                for page in (messages, controls, pacing, idle, speed, world_command)
            ),
            f"A payload of {messages.SPLIT_BYTES} bytes or more follows its header in a frame of "
            "its own; a smaller one is the last field of the same map. Everything marked "
            "`x-extension` is for clients whose init has `extensions: true`.",
            _table("format", formats),
            _table("error code", ERROR_CODES),
            _table("close code", _close_codes()),
        ]
    )


def _table(title: str, rows: dict[str, str]) -> str:
    lines = [f"| {title} | meaning |", "| --- | --- |"]
    lines += [f"| `{name}` | {' '.join(text.split())} |" for name, text in rows.items()]
    return "\n".join(lines)
