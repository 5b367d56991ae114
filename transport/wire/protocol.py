"""The order of a conversation, without I/O: bytes in, effects out.

    init -> plan -> (event | ack)* -> close

A message that cannot be used is answered and changes nothing; only what is raised ends the socket.
"""

from enum import Enum, auto
from typing import TYPE_CHECKING

from transport.wire.controls import Controls, canonical
from transport.wire.errors import BadMessage, OutOfOrder, Refused, TooLarge, TransportError
from transport.wire.event import KeyFrame, read_event
from transport.wire.init import SessionRequest, read_init
from transport.wire.limits import ClientLimits
from transport.wire.messages import (
    Ack,
    ClientMessage,
    ControlAck,
    Encoding,
    Error,
    Event,
    HeldKeys,
    Init,
    decode_message,
    error_message,
)
from transport.wire.output_settings import OutputSettings
from transport.wire.pacing import Pacer

if TYPE_CHECKING:
    from transport.wire.world import WorldInfo


class State(Enum):
    IDLE = auto()  # waiting for an init that holds
    RUNNING = auto()


Effect = SessionRequest | Ack | ControlAck | Error | None


class ServerProtocol:
    """One client's side of the wire. Mutates its controls, output and pacer, and nothing else."""

    def __init__(self, info: "WorldInfo", *, limits: ClientLimits) -> None:
        self.state = State.IDLE
        self.controls = Controls()
        self.output = OutputSettings()
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
            return self._handle(decode_message(data), num_bytes=len(data))
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

    def _start(self, init: Init) -> SessionRequest:
        plan = read_init(init, self._info, max_script_bytes=self._limits.max_event_bytes)
        self.state = State.RUNNING
        self.output = OutputSettings(plan.encoding)
        self.pacer = Pacer(
            plan.fps, paced=plan.paced, acknowledged=plan.extensions, latest=plan.latest
        )
        self._extensions = plan.extensions
        if plan.script:
            self.controls.play_script(plan.script)
        return plan

    def _apply(self, event: Event) -> ControlAck | None:
        # All of it is read before any of it is applied.
        parsed = read_event(event, self.output.encoding, extensions=self._extensions)
        for control in parsed:
            match control:
                case Encoding():
                    self.output.encoding = control
                case KeyFrame():
                    self.output.key_frame_wanted = True
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
