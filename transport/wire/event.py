"""Events, parsed and checked: the changes that a client makes while its world runs.

All parts of an event are read before any of them is applied.
"""

from functools import partial

from msgspec import Raw, Struct

from transport.wire.controls import KEYS, MAX_SCRIPT_LATENT_FRAMES, read_keys
from transport.wire.decoding import decode_field
from transport.wire.errors import BadMessage, OutOfOrder, quote
from transport.wire.messages import MAX_PROMPT_CHARS, Encoding, Event, HeldKeys, WarningMessage
from transport.wire.output_settings import merge_encoding, read_output_change
from transport.wire.world_command import WORLD_KINDS, WorldEvent, read_world_event

MAX_NAMED_KEYS, MAX_KEY_CHARS = 6, 16  # a warning quotes so many unknown keys, cut to this length
PART_KINDS = ("camera_actions", "prompt", "output", "key_frame", "visibility")  # of a composite
PLAIN_KINDS = (*PART_KINDS, "composite_input")
KINDS = (*PLAIN_KINDS, *WORLD_KINDS)


class SetPrompt(Struct, frozen=True):
    """The prompt from the next chunk on."""

    prompt: str


class NewPrompt(Struct, frozen=True):
    """A prompt that waits for its encoding, and the event that it came with."""

    prompt: str
    event_id: int | None
    course: int = 0  # see `Controls`


class PlayScript(Struct, frozen=True):
    """One action for each latent frame."""

    actions: list[str]


class HoldKeys(Struct, frozen=True):
    """The keys held after each transition, as actions. The last ones stay held."""

    states: list[str]


class ChangeOutput(Struct, frozen=True):
    """The whole encoding from the next chunk on."""

    encoding: Encoding


class RequestKeyFrame(Struct, frozen=True):
    """The next frame must be decodable without those before it."""


class SetVisibility(Struct, frozen=True):
    """The client's page is hidden, or visible."""

    hidden: bool


ControlEvent = SetPrompt | PlayScript | HoldKeys | ChangeOutput | RequestKeyFrame | SetVisibility
EventPart = ControlEvent | WorldEvent


def read_event(
    event: Event, encoding: Encoding, *, extensions: bool, warnings: list[WarningMessage]
) -> list[EventPart]:
    """The events in a message, ready to be applied. Raises BadMessage for a bad part.

    Raises OutOfOrder for a part that needs extensions.
    `encoding` is the present one. `extensions` is true if the client asked for them. `warnings`
    receives what is not as the event asks.
    """
    read = partial(_read_part, encoding=encoding, extensions=extensions, warnings=warnings)
    if event.kind != "composite_input":
        return [read(event.kind, event.payload, field="payload", kind_field="kind")]
    parts = decode_field(event.payload, dict[str, Raw], field="payload")
    types_field = "payload.input_types"
    kinds = decode_field(parts.get("input_types", Raw()), list[str], field=types_field)
    if not kinds:
        raise BadMessage(f"`{types_field}`: expected at least one kind", field=types_field)
    _refuse_repeats(kinds, field=types_field)
    for name in parts.keys() - {"input_types", *kinds}:
        text = f"`payload`: {quote(name)} is left out, because `input_types` does not list it"
        warnings.append(WarningMessage(text, "not_supported", "payload"))
    return [
        read(
            kind,
            parts.get(kind, Raw()),
            field=f"payload.{kind}",
            kind_field=f"{types_field}[{position}]",
        )
        for position, kind in enumerate(kinds)
    ]


def read_camera_actions(
    raw: Raw, *, field: str, warnings: list[WarningMessage]
) -> PlayScript | HoldKeys:
    """The payload of `camera_actions`. Raises BadMessage with the path of a part of another type.

    `warnings` receives the unknown keys, and the beginning of a script that is too long: as with
    SGLang-Diffusion, neither voids the rest.
    """
    unknown: dict[str, None] = {}
    actions: PlayScript | HoldKeys
    if _is_map(raw):
        held = decode_field(raw, HeldKeys, field=field)
        if held.mode != "state":
            path = f"{field}.mode"
            raise BadMessage(f"`{path}`: {quote(held.mode)}, expected 'state'", field=path)
        actions = HoldKeys([read_keys(one.actions, unknown=unknown) for one in held.transitions])
    else:
        script = decode_field(raw, list[list[str]], field=field)
        num_left_out = len(script) - MAX_SCRIPT_LATENT_FRAMES
        if num_left_out > 0:
            text = f"`{field}`: the first {num_left_out} latent frames are left out, expected at "
            text += f"most {MAX_SCRIPT_LATENT_FRAMES}"
            warnings.append(WarningMessage(text, "script_truncated", field))
        newest = script[-MAX_SCRIPT_LATENT_FRAMES:]
        actions = PlayScript([read_keys(keys, unknown=unknown) for keys in newest])
    if unknown:
        names = ", ".join(repr(key[:MAX_KEY_CHARS]) for key in list(unknown)[:MAX_NAMED_KEYS])
        text = f"`{field}`: {names} left out, expected keys of '{KEYS}'"
        warnings.append(WarningMessage(text, "unknown_keys", field))
    return actions


def _read_part(
    kind: str,
    payload: Raw,
    *,
    field: str,
    kind_field: str,
    encoding: Encoding,
    extensions: bool,
    warnings: list[WarningMessage],
) -> EventPart:
    is_whole = kind_field == "kind"  # not a part of a composite
    match kind:
        case "camera_actions":
            return read_camera_actions(payload, field=field, warnings=warnings)
        case "prompt":
            return _read_prompt(payload, field=field)
        case "output":
            change = read_output_change(payload, field=field)
            return ChangeOutput(
                merge_encoding(encoding, change, extensions=extensions, field=field)
            )
        case "key_frame":
            return RequestKeyFrame()
        case "visibility" if not extensions:
            raise _needs_extensions(kind, field=kind_field)
        case "visibility":
            return _read_visibility(payload, field=field)
        case _ if kind in WORLD_KINDS and is_whole:
            if not extensions:
                raise _needs_extensions(kind, field=kind_field)
            return read_world_event(kind, payload, field=field)
        case _:
            known = (KINDS if extensions else PLAIN_KINDS) if is_whole else PART_KINDS
            raise BadMessage(
                f"`{kind_field}`: unknown kind {quote(kind)}, expected one of {', '.join(known)}",
                code="unknown_kind",
                field=kind_field,
            )


def _needs_extensions(kind: str, *, field: str) -> OutOfOrder:
    return OutOfOrder(f"`{kind}` without `extensions` in init", field=field)


def _read_prompt(payload: Raw, *, field: str) -> SetPrompt:
    prompt = decode_field(payload, str, field=field)
    if not 1 <= len(prompt) <= MAX_PROMPT_CHARS:
        raise BadMessage(
            f"`{field}`: a prompt of {len(prompt)} characters, expected 1 to {MAX_PROMPT_CHARS}",
            field=field,
        )
    return SetPrompt(prompt)


def _read_visibility(payload: Raw, *, field: str) -> SetVisibility:
    visibility = decode_field(payload, str, field=field)
    if visibility not in ("hidden", "visible"):
        text = f"`{field}`: {quote(visibility)}, expected 'hidden' or 'visible'"
        raise BadMessage(text, field=field)
    return SetVisibility(visibility == "hidden")


def _refuse_repeats(kinds: list[str], *, field: str) -> None:
    """Raises BadMessage for a repeated kind, whose payload would be parsed once more."""
    seen: set[str] = set()
    for position, kind in enumerate(kinds):
        if kind in seen:
            path = f"{field}[{position}]"
            raise BadMessage(f"`{path}`: {quote(kind)} is listed twice", field=path)
        seen.add(kind)


def _is_map(raw: Raw) -> bool:
    """Returns True for a map, which the first byte of MessagePack shows."""
    first = memoryview(raw)[:1].tobytes()
    return first != b"" and (0x80 <= first[0] <= 0x8F or first[0] in (0xDE, 0xDF))
