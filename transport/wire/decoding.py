"""Bytes of the wire to a client's messages, and the reason why they are none.

Tested in `tests/transport/wire/test_messages.py`.
"""

from typing import TypeVar, get_args

from msgspec import DecodeError, Raw, Struct, ValidationError, msgpack

from transport.wire.errors import BadMessage, quote, unknown_name
from transport.wire.messages import Chroma, ClientMessage, DeliveryMode, EventId

T = TypeVar("T")
S = TypeVar("S", bound=Struct)

# Not strict: clients send integers as whole floats, as JavaScript encoders do, or as digits.
_decoder: msgpack.Decoder[ClientMessage] = msgpack.Decoder(ClientMessage, strict=False)
_CHOICES: dict[str, tuple[str, ...]] = {
    "realtime_delivery": get_args(DeliveryMode),
    "realtime_chroma_subsampling": get_args(Chroma),
}


def decode_message(data: bytes) -> ClientMessage:
    """Raises BadMessage with the reason and the expected type."""
    try:
        return _decoder.decode(data)
    except ValidationError as exc:
        raise explain(str(exc)) from exc
    except (DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadMessage(f"not a MessagePack map: {exc}", code="malformed") from exc


class _EventId(Struct):
    event_id: EventId | None = None


def read_event_id(data: bytes) -> int | None:
    """The id of an event that may be invalid otherwise; None if it has none or is unreadable."""
    try:
        return msgpack.decode(data, type=_EventId, strict=False).event_id
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return None


def decode_field(raw: Raw, kind: type[T], *, field: str) -> T:
    """Decodes a field whose type depends on another one.

    Raises BadMessage with the path below `field`.
    """
    if is_absent(raw):
        raise BadMessage(f"missing required field `{field}`", code="missing_field", field=field)
    try:
        return msgpack.decode(raw, type=kind, strict=False)
    except ValidationError as exc:
        raise explain(str(exc), root=field) from exc
    except (DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadMessage(f"`{field}` is not MessagePack: {exc}", field=field) from exc


def decode_known(raw: Raw, kind: type[S], *, field: str) -> S:
    """Decodes a map of which every field has an effect: an unknown one is an error.

    Raises BadMessage with the path below `field`.
    """
    known = kind.__struct_fields__
    for name in decode_field(raw, dict[str, Raw], field=field):
        if name not in known:
            raise unknown_name(name, known, parent=field)
    return decode_field(raw, kind, field=field)


def is_absent(raw: Raw) -> bool:
    """Returns True for an untyped field that is missing or null."""
    view = memoryview(raw)
    return view.nbytes == 0 or (view.nbytes == 1 and view[0] == 0xC0)


def explain(text: str, *, root: str | None = None) -> BadMessage:
    """The text of a ValidationError as a BadMessage, with the path as a client knows it."""
    # A client's value may contain the marker, too. The last one is that of msgspec.
    text, at, path = text.rpartition(" - at `$")
    text, path = (text, path) if at else (path, "")
    below = path.partition("`")[0]
    field = f"{root}{below}" if root else below.removeprefix(".") or None
    if text.startswith("Invalid enum value '"):  # of a Literal
        unknown = quote(text.removeprefix("Invalid enum value '").removesuffix("'"))
        return BadMessage(f"`{field}`: {unknown} is not one of {_choices_of(field)}", field=field)
    if text.startswith("Invalid value '"):  # of a tag
        unknown = quote(text.removeprefix("Invalid value '").removesuffix("'"))
        return BadMessage(
            f"unknown message type {unknown}, expected 'init', 'event' or 'ack'",
            code="unknown_type",
            field="type",
        )
    if "missing required field" in text:
        name = text.split("`")[1]
        where = f"{field}.{name}" if field else name
        return BadMessage(f"missing required field `{where}`", code="missing_field", field=where)
    reason = text[0].lower() + text[1:]
    if field is None:
        return BadMessage(f"the message: {reason}", code="malformed")
    return BadMessage(f"`{field}`: {reason}", field=field)


def _choices_of(field: str | None) -> str:
    """The values of a field whose type is a Literal."""
    choices = _CHOICES[(field or "").rpartition(".")[2]]
    return ", ".join(repr(choice) for choice in choices)
