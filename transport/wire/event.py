"""What an event asks for: every part of it read before any is applied."""

from functools import partial

from msgspec import Raw, Struct

from transport.wire.controls import parse_camera_actions
from transport.wire.errors import BadMessage, quote
from transport.wire.messages import (
    MAX_PROMPT_CHARS,
    Encoding,
    Event,
    HeldKeys,
    OutputChange,
    decode_field,
)
from transport.wire.output_settings import change_output

KINDS = ("camera_actions", "prompt", "output", "key_frame", "composite_input")


class KeyFrame(Struct, frozen=True):
    """Wanted: a next frame that can be decoded without those before it."""


# A prompt, a script, what the keyboard did, how frames travel from now on.
Control = str | list[str] | HeldKeys | Encoding | KeyFrame


def read_event(event: Event, encoding: Encoding, *, extensions: bool) -> list[Control]:
    """The controls in an event, all of them good. Raises BadMessage for the first that is not.

    `encoding` is how frames travel now, `extensions` whether the client asked for them.
    """
    read = partial(_read_control, encoding=encoding, extensions=extensions)
    if event.kind != "composite_input":
        return [read(event.kind, event.payload, field="payload", kind_field="kind")]
    parts = decode_field(event.payload, dict[str, Raw], field="payload")
    types_field = "payload.input_types"
    kinds = decode_field(parts.get("input_types", Raw()), list[str], field=types_field)
    if not kinds:
        raise BadMessage(f"`{types_field}`: expected at least one kind", field=types_field)
    _refuse_repeats(kinds, field=types_field)
    return [
        read(
            kind,
            parts.get(kind, Raw()),
            field=f"payload.{kind}",
            kind_field=f"{types_field}[{position}]",
        )
        for position, kind in enumerate(kinds)
    ]


def _refuse_repeats(kinds: list[str], *, field: str) -> None:
    """Each repeat would have the same payload parsed once more. Raises BadMessage."""
    seen: set[str] = set()
    for position, kind in enumerate(kinds):
        if kind in seen:
            place = f"{field}[{position}]"
            raise BadMessage(f"`{place}`: {quote(kind)} is listed twice", field=place)
        seen.add(kind)


def _read_control(
    kind: str,
    payload: Raw,
    *,
    field: str,
    kind_field: str,
    encoding: Encoding,
    extensions: bool,
) -> Control:
    match kind:
        case "camera_actions":
            return parse_camera_actions(payload, field=field)
        case "prompt":
            prompt = decode_field(payload, str, field=field)
            if not 1 <= len(prompt) <= MAX_PROMPT_CHARS:
                raise BadMessage(
                    f"`{field}`: a prompt of {len(prompt)} characters, expected 1 to "
                    f"{MAX_PROMPT_CHARS}",
                    field=field,
                )
            return prompt
        case "output":
            change = decode_field(payload, OutputChange, field=field)
            return change_output(change, encoding, extensions=extensions, field=field)
        case "key_frame":
            return KeyFrame()
        case _:
            known = KINDS if kind_field == "kind" else KINDS[:-1]  # no composite in a composite
            raise BadMessage(
                f"`{kind_field}`: unknown kind {quote(kind)}, expected one of {', '.join(known)}",
                code="unknown_kind",
                field=kind_field,
            )
