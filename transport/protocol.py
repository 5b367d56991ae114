"""The order of a conversation, without I/O: bytes in, effects out.

    init -> plan -> (event | ack)* -> close

A message that cannot be used is answered and changes nothing; only what is raised ends the socket.
"""

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, get_args

from msgspec import Raw, Struct

from transport.controls import Controls, canonical, parse_camera_actions
from transport.errors import BadMessage, OutOfOrder, Refused, TooLarge, TransportError, quote
from transport.limits import Limits
from transport.messages import (
    DEFAULT_QUALITY,
    MAX_PROMPT_CHARS,
    Ack,
    ClientMessage,
    ControlAck,
    Encoding,
    Error,
    Event,
    Format,
    HeldKeys,
    Init,
    decode,
    decode_field,
    error_message,
    is_absent,
)
from transport.pacing import Pacer

if TYPE_CHECKING:
    from transport.world import WorldInfo

Control = str | list[str] | HeldKeys  # a prompt, a script, or what the keyboard did

DEFAULT_SEED = 42
MAX_SIDE = 8192
KINDS = ("camera_actions", "prompt", "composite_input")
KNOWN_FORMATS = ("webp", "h264")  # parts of the wire that are not built

_SIZE = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})")


class State(Enum):
    IDLE = auto()  # waiting for an init that holds
    RUNNING = auto()


class Plan(Struct, frozen=True, kw_only=True):
    """An init that holds: what to open, and how to play it."""

    prompt: str
    first_frame: bytes | str | None  # None: the first opening
    width: int
    height: int
    seed: int
    num_steps: int | None
    window: int | None
    sink: int | None
    encoding: Encoding
    fps: int
    paced: bool
    max_chunks: int | None
    extensions: bool
    script: list[str]


Effect = Plan | Ack | ControlAck | Error | None


class Conversation:
    """One client's side of the wire. Mutates its controls and its pacer, and nothing else."""

    def __init__(self, info: "WorldInfo", *, limits: Limits) -> None:
        self.state = State.IDLE
        self.controls = Controls()
        self.pacer = Pacer(info.fps)
        self._info = info
        self._limits = limits
        self._extensions = False
        self._num_errors = 0

    def receive(self, data: bytes | str) -> Effect:
        """What to do about one message: open a plan, send a reply, note an ack, or nothing.

        Raises TooLarge, and Refused for a client that never gets it right.
        """
        try:
            if isinstance(data, str):
                raise BadMessage(
                    "a text frame, expected MessagePack in a binary frame", code="text_frame"
                )
            if len(data) > self._limits.max_init_bytes:
                raise self._too_large(len(data), self._limits.max_init_bytes)
            return self._handle(decode(data), num_bytes=len(data))
        except (BadMessage, OutOfOrder) as error:
            return self._answer(error)

    def reject(self, error: TransportError) -> Error:
        """The plan came to nothing: another init may follow."""
        self.state = State.IDLE
        self.controls = Controls()
        return self._answer(error)

    def _answer(self, error: TransportError) -> Error:
        self._num_errors += 1
        if self._num_errors > self._limits.max_errors:
            raise Refused(
                f"more than {self._limits.max_errors} messages that cannot be used, the last one: "
                f"{error}",
                code="too_many_errors",
                close_code=1008,
            )
        return error_message(error)

    def _handle(self, message: ClientMessage, *, num_bytes: int) -> Effect:
        if not isinstance(message, Init) and num_bytes > self._limits.max_event_bytes:
            raise self._too_large(num_bytes, self._limits.max_event_bytes)
        match self.state, message:
            case State.IDLE, Init():
                return self._start(message)
            case State.RUNNING, Event():
                return self._apply(message)
            case State.RUNNING, Ack() if self._extensions:
                self.pacer.acknowledge(message.chunk_index)
                return message
            case State.RUNNING, Ack():
                raise OutOfOrder("an ack without `extensions` in init")
            case State.RUNNING, _:
                raise OutOfOrder("a second init while a world is open")
            case _:
                raise OutOfOrder(f"{type(message).__name__.lower()} before init")

    def _start(self, init: Init) -> Plan:
        plan = read_init(init, self._info, max_script_bytes=self._limits.max_event_bytes)
        self.state = State.RUNNING
        self.pacer = Pacer(plan.fps, paced=plan.paced, acknowledged=plan.extensions)
        self._extensions = plan.extensions
        if plan.script:
            self.controls.play_script(plan.script)
        return plan

    def _apply(self, event: Event) -> ControlAck | None:
        parsed = read_event(event)  # all of it, before any of it is applied
        for control in parsed:
            match control:
                case str():
                    self.controls.set_prompt(control, event_id=event.event_id)
                case HeldKeys():
                    states = [canonical(change.actions) for change in control.transitions]
                    self.controls.hold(states, event_id=event.event_id)
                case _:
                    self.controls.play_script(control, event_id=event.event_id)
        if self._extensions and event.event_id is not None:
            return ControlAck(event.event_id)
        return None

    def _too_large(self, num_bytes: int, limit: int) -> TooLarge:
        return TooLarge(f"a message of {num_bytes} bytes, expected at most {limit}")


def read_event(event: Event) -> list[Control]:
    """The controls in an event, all of them good. Raises BadMessage for the first that is not."""
    if event.kind != "composite_input":
        return [_read_control(event.kind, event.payload, field="payload", kind_field="kind")]
    parts = decode_field(event.payload, dict[str, Raw], field="payload")
    types_field = "payload.input_types"
    kinds = decode_field(parts.get("input_types", Raw()), list[str], field=types_field)
    if not kinds:
        raise BadMessage(f"`{types_field}`: expected at least one kind", field=types_field)
    _refuse_repeats(kinds, field=types_field)
    return [
        _read_control(
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


def _read_control(kind: str, payload: Raw, *, field: str, kind_field: str) -> Control:
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
        case _:
            raise BadMessage(
                f"`{kind_field}`: unknown kind {quote(kind)}, expected one of {', '.join(KINDS)}",
                code="unknown_kind",
                field=kind_field,
            )


def read_init(init: Init, info: "WorldInfo", *, max_script_bytes: int) -> Plan:
    """Checks an init against what is served. Raises BadMessage."""
    window, sink = _read_window(init, info)
    width, height = read_size(init.size, info)
    extensions = bool(init.extensions)
    return Plan(
        prompt=init.prompt or opening_prompt(info),
        first_frame=_read_first_frame(init.first_frame, info),
        width=width,
        height=height,
        seed=DEFAULT_SEED if init.seed is None else init.seed,
        num_steps=read_steps(init.num_inference_steps, info),
        window=window,
        sink=sink,
        encoding=Encoding(
            format=_read_format(init.realtime_output_format),
            quality=init.output_compression or DEFAULT_QUALITY,
            preview_max_width=init.realtime_preview_max_width or None,
        ),
        fps=init.fps or info.fps,
        paced=init.realtime_output_pacing is not False or not extensions,
        max_chunks=init.max_chunks,
        extensions=extensions,
        script=_read_script(init, max_bytes=max_script_bytes),
    )


def read_size(size: str | None, info: "WorldInfo") -> tuple[int, int]:
    """The served (width, height) nearest to a wish of "WxH". Raises BadMessage."""
    if size is None:
        return info.sizes[0] if info.sizes else info.nearest_size(832, 480)
    match = _SIZE.fullmatch(size)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise BadMessage(
            f"`size`: {quote(size)}, expected 'WIDTHxHEIGHT', each 1 to {MAX_SIDE}", field="size"
        )
    return info.nearest_size(width, height)


def read_steps(num_steps: int | None, info: "WorldInfo") -> int | None:
    if num_steps is not None and num_steps > info.max_steps:
        field = "num_inference_steps"
        raise BadMessage(f"`{field}`: {num_steps}, expected 1 to {info.max_steps}", field=field)
    return num_steps


def _read_window(init: Init, info: "WorldInfo") -> tuple[int | None, int | None]:
    """(window, sink) in latent frames, wishes both: the nearest that is served.

    The window counts the sink and the current chunk.
    """
    window, sink = init.realtime_causal_kv_cache_num_frames, init.realtime_causal_sink_size
    chunk = info.chunk_latent_frames
    if window is not None:
        if window < chunk:
            field = "realtime_causal_kv_cache_num_frames"
            raise BadMessage(f"`{field}`: {window}, expected at least {chunk}", field=field)
        window = min(window, info.max_window)
        sink = info.sink if sink is None else sink  # the default one may not fit this window
    if sink is not None:
        sink = min(sink, (window or info.max_window) - chunk)
    return window, sink


def _read_format(name: str | None) -> Format:
    served: tuple[Format, ...] = get_args(Format)
    for candidate in served:
        if name in (None, candidate):
            return candidate
    assert name is not None
    what = "is not served yet" if name in KNOWN_FORMATS else "is unknown"
    raise BadMessage(
        f"`realtime_output_format`: {quote(name)} {what}, expected 'raw' or 'jpeg'",
        field="realtime_output_format",
    )


def _read_first_frame(raw: Raw, info: "WorldInfo") -> bytes | str | None:
    if is_absent(raw):
        if not info.openings:
            raise BadMessage(
                "missing required field `first_frame`: this world has no picture of its own",
                code="missing_field",
                field="first_frame",
            )
        return None
    if memoryview(raw)[0] in (0xC4, 0xC5, 0xC6):  # MessagePack's bin
        return decode_field(raw, bytes, field="first_frame")
    return decode_field(raw, str, field="first_frame")


def _read_script(init: Init, *, max_bytes: int) -> list[str]:
    raw = init.condition_inputs.camera_actions if init.condition_inputs else Raw()
    if is_absent(raw):
        return []
    field = "condition_inputs.camera_actions"
    # An init may be large for its picture; its script may not be larger than one in an event.
    num_bytes = memoryview(raw).nbytes
    if num_bytes > max_bytes:
        raise BadMessage(
            f"`{field}`: {num_bytes} bytes, expected at most {max_bytes}",
            code="too_large",
            field=field,
        )
    script = parse_camera_actions(raw, field=field)
    if isinstance(script, HeldKeys):
        raise BadMessage(f"`{field}`: expected a list of lists of keys", field=field)
    return script


def opening_prompt(info: "WorldInfo") -> str:
    """What a client that gives no prompt means. Raises BadMessage where there is no opening."""
    if not info.openings:
        raise BadMessage("missing required field `prompt`", code="missing_field", field="prompt")
    return info.openings[0].prompt
