"""The order of messages on one connection, without I/O: bytes in, effects and bytes out.

    init -> session -> (event | ack)* -> close

An invalid message is answered and changes nothing. Only a raised error ends the connection.
A second init before the session waits, with all that follows it, until the first has failed.
"""

import math
from enum import Enum, auto
from typing import TYPE_CHECKING

from msgspec.structs import replace

from transport.wire.apply_event import apply_event, note_presence
from transport.wire.closing import Close, build_close, error_message
from transport.wire.controls import ChunkControls, Controls
from transport.wire.decoding import decode_message, read_event_id
from transport.wire.error_budget import ErrorBudget
from transport.wire.errors import BadMessage, OutOfOrder, Refused, TooLarge, TransportError
from transport.wire.event import EventPart, NewPrompt, SetPrompt, read_event
from transport.wire.held_messages import HeldMessages
from transport.wire.idle import IdleClock
from transport.wire.init import SessionRequest, continue_saved, describe_session, read_init
from transport.wire.limits import ClientLimits
from transport.wire.messages import (
    Ack,
    AppliedControls,
    ChunkStats,
    ClientMessage,
    ControlAck,
    Error,
    Event,
    FrameBatchHeader,
    HeaderExtras,
    Init,
    Layout,
    Reconnect,
    Unit,
    WarningMessage,
    encode_batch,
    encode_message,
)
from transport.wire.notice import Notice
from transport.wire.output_settings import OutputSettings
from transport.wire.pacing import Pacer
from transport.wire.speed import SpeedMeter
from transport.wire.world_command import CommandQueue

if TYPE_CHECKING:
    from transport.wire.world import SavedWorld, WorldInfo


class State(Enum):
    IDLE = auto()  # waiting for a valid init
    RUNNING = auto()  # the init is valid; its world is being opened or open


Receipt = list[ControlAck | WarningMessage]  # the answer to a valid event
Effect = SessionRequest | Ack | Receipt | Error


class ServerProtocol:
    """The server's side of one connection.

    Received messages change its controls, output settings and clocks. Methods `send_*` return
    the unit to write, or an empty one if this client must not receive the message.
    """

    def __init__(self, info: "WorldInfo", *, limits: ClientLimits) -> None:
        self.state = State.IDLE
        self.controls = Controls()
        self.output = OutputSettings()
        self.idle = IdleClock(limits)
        self.commands = CommandQueue()
        self.request: SessionRequest | None = None  # the accepted one, without its image
        self._info = info
        self._limits = limits
        self._pacer = Pacer(fps=info.fps)
        self._speed = SpeedMeter(fps=info.fps)
        self._session_id: str | None = None
        self._error_budget = ErrorBudget(max_per_minute=limits.max_errors)
        self._held = HeldMessages(max_bytes=limits.max_init_bytes)
        self._new_prompt: NewPrompt | None = None
        self._payload_pending = False  # a header was started, and its payload is not written

    # ---- from the client

    def receive(self, data: bytes | str, now_s: float) -> Effect:
        """Handles one message. Returns a session to open, an ack, or what to answer.

        Raises TooLarge, and Refused after too many invalid messages.
        """
        try:
            if self._held:
                self._held.add(data)
                return []
            if isinstance(data, str):
                raise BadMessage(
                    "a text frame, expected MessagePack in a binary frame", code="text_frame"
                )
            if len(data) > self._limits.max_init_bytes:
                raise _too_large(len(data), self._limits.max_init_bytes)
            message = decode_message(data)
            if isinstance(message, Init) and self._is_opening:
                self._held.add(data)
                return []
            effect = self._handle(message, now_s, num_bytes=len(data))
            self.controls.note_arrival(now_s)
            return effect
        except (BadMessage, OutOfOrder) as error:
            event_id = read_event_id(data) if isinstance(data, bytes) else None
            return self._answer(error, now_s, event_id=event_id)

    def accept_image(self, *, width: int, height: int) -> SessionRequest:
        """Returns the accepted request, without its image, for a world of this size."""
        assert self.request is not None
        world = replace(self.request.world, width=width, height=height)
        self.request = replace(self.request, world=world)
        return self.request

    def accept_saved(self, saved: "SavedWorld") -> SessionRequest:
        """Returns the accepted request, without its snapshot, for this world."""
        assert self.request is not None
        self.request = continue_saved(self.request, saved)
        return self.request

    def reject(self, error: TransportError, now_s: float) -> list[Effect]:
        """Returns the reply to an init that failed later, and the effects of held messages.

        Another init may follow, or be among those messages.
        """
        self.state = State.IDLE
        self.request = None
        self.controls = Controls()
        self.commands = CommandQueue()
        self._new_prompt = None
        return [self._answer(error, now_s), *self.release(now_s)]

    def release(self, now_s: float) -> list[Effect]:
        """Handles the messages that were held until the first init failed or had its session."""
        return [self.receive(data, now_s) for data in self._held.take()]

    def _answer(self, error: TransportError, now_s: float, *, event_id: int | None = None) -> Error:
        if not self._error_budget.spend(now_s):
            raise Refused(
                f"more than {self._limits.max_errors} invalid messages in a minute, the last one: "
                f"{error}",
                code="too_many_errors",
                close_code=1008,
            )
        return error_message(error, event_id=event_id)

    def _handle(self, message: ClientMessage, now_s: float, *, num_bytes: int) -> Effect:
        if not isinstance(message, Init) and num_bytes > self._limits.max_event_bytes:
            raise _too_large(num_bytes, self._limits.max_event_bytes)
        match self.state, message:
            case State.IDLE, Init():
                return self._accept(message, now_s)
            case State.RUNNING, Event():
                return self._apply_event(message, now_s)
            case State.RUNNING, Ack() if self._extensions:
                self._pacer.acknowledge(message.chunk_index)
                return message
            case State.RUNNING, Ack():
                raise OutOfOrder("an ack without `extensions` in init")
            case State.RUNNING, _:
                raise OutOfOrder("a second init while a world is open")
            case _:
                raise OutOfOrder(f"{type(message).__name__.lower()} before init")

    def _accept(self, init: Init, now_s: float) -> SessionRequest:
        request = read_init(init, self._info, max_script_bytes=self._limits.max_event_bytes)
        self.state = State.RUNNING
        self.request = replace(request, first_frame=None, source=None)
        self.output = OutputSettings(request.encoding)
        self._pacer = Pacer(
            fps=request.fps,
            paced=request.paced,
            acknowledged=request.extensions,
            latest=request.latest,
            on_demand=request.on_demand,
        )
        self._speed = SpeedMeter(fps=request.fps)
        if request.script:
            self.controls.play_script(request.script)
        if request.source and init.prompt:  # the world has a prompt, and this one is its next
            self._apply(SetPrompt(init.prompt), now_s, event_id=None)
        return request

    def _apply_event(self, event: Event, now_s: float) -> Receipt:
        warnings: list[WarningMessage] = []
        # All parts are read before any is applied.
        parts = read_event(
            event, self.output.encoding, extensions=self._extensions, warnings=warnings
        )
        for part in parts:
            self._apply(part, now_s, event_id=event.event_id)
        if not self._extensions:
            return []
        acks = [] if event.event_id is None else [ControlAck(event.event_id)]
        return [*acks, *warnings]

    def _apply(self, event: EventPart, now_s: float, *, event_id: int | None) -> None:
        if isinstance(event, SetPrompt) and self._info.encodes_prompts:
            self._new_prompt = NewPrompt(event.prompt, event_id, self.controls.course)
        else:
            apply_event(
                event,
                event_id=event_id,
                controls=self.controls,
                output=self.output,
                commands=self.commands,
            )
        note_presence(event, now_s, idle=self.idle)

    # ---- prompts that must be encoded before they take effect

    @property
    def has_new_prompt(self) -> bool:
        return self._new_prompt is not None

    def take_new_prompt(self) -> NewPrompt | None:
        """The newest prompt that waits for its encoding, at most once."""
        new, self._new_prompt = self._new_prompt, None
        return new

    def apply_prompt(self, new: NewPrompt) -> None:
        """Notes that a prompt is encoded. It takes effect, and its event with it, from now on."""
        self.controls.set_prompt(new.prompt, event_id=new.event_id, course=new.course)

    def begin_course(self, course: int) -> None:
        """The world was turned back or reset: its next chunk does not follow the last one."""
        self.controls.begin_course(course)
        if self._new_prompt and self._new_prompt.course < course:
            self._new_prompt = None
        self._pacer.restart()
        self.output.key_frame_wanted = True

    # ---- to the client

    def send_reply(self, reply: Error | ControlAck | WarningMessage) -> Unit:
        return [encode_message(reply)]

    def send_refusal(self, error: TransportError, *, event_id: int | None) -> Unit:
        """The answer to a command that the world refuses. The world stays as it was."""
        return [encode_message(error_message(error, event_id=event_id))]

    def send_prompt_refusal(self, new: NewPrompt, error: TransportError) -> Unit:
        """The answer to an event whose prompt could not be encoded. The old prompt stays."""
        refused = Refused(f"the prompt stays as it was: {error}", field="prompt")
        return self.send_refusal(refused, event_id=new.event_id)

    def send_notice(self, notice: Notice) -> Unit:
        """A message for a client with extensions."""
        return [encode_message(notice)] if self._extensions else []

    def send_session(
        self,
        session_id: str,
        *,
        chunk_index: int = 0,
        earliest_chunk: int = 0,
        resume_token: str | None = None,
    ) -> Unit:
        """Opens the session, which a client with extensions learns before any chunk.

        `chunk_index` and `earliest_chunk` are those of its `WorldSession`.
        """
        request = self.request
        assert request is not None
        self._session_id = session_id
        if not request.extensions:
            return []
        message = describe_session(
            request,
            self._info,
            self._limits,
            session_id=session_id,
            chunk_index=chunk_index,
            earliest_chunk=earliest_chunk,
            resume_token=resume_token,
        )
        return [encode_message(message)]

    def send_batch(
        self,
        header: FrameBatchHeader,
        layout: Layout,
        payload: bytes | memoryview,
        *,
        controls: ChunkControls,
        world_index: int = 0,
        dropped_frames: int = 0,
    ) -> Unit:
        """A batch as one unit. With its first batch a chunk counts as sent.

        `controls` are those of the chunk, and `world_index` is its index in the world;
        `dropped_frames` counts the session's so far.
        """
        assert self._session_id is not None, "a chunk before `send_session`"
        is_first = header.frame_batch_index == 0
        if is_first:
            self._pacer.sent(header.chunk_index)
        if not self._extensions:
            return encode_batch(header, layout, payload)
        extras = HeaderExtras(
            applied_controls=AppliedControls(list(map(list, controls.actions)), controls.event_ids),
            world_chunk_index=world_index,
            cut_over=is_first and self._flushes_older(controls),
            dropped_frames=dropped_frames,
        )
        return encode_batch(header, layout, payload, extras=extras)

    def send_stats(self, stats: ChunkStats) -> Unit:
        return [encode_message(stats)]

    def note_progress(self, unit: Unit, num_written: int) -> None:
        """Must be called before a unit is written, with 0, and after each of its parts."""
        self._payload_pending = len(unit) > 1 and num_written < len(unit)

    def send_close(
        self, code: int, reason: str, *, last: TransportError | Reconnect | None = None
    ) -> Close:
        """The end of the connection; see `build_close`."""
        # A client would read a message in the place of a payload as that payload.
        return build_close(code, reason, last=None if self._payload_pending else last)

    # ---- the media clock

    def take_controls(self) -> ChunkControls:
        """The controls of the next chunk."""
        return self.controls.take_chunk(self._info.chunk_latent_frames)

    def chunk_generated(
        self,
        now_s: float,
        controls: ChunkControls,
        *,
        num_frames: int,
        took_s: float,
        decoding_s: float = 0.0,
    ) -> Unit:
        """Advances the media clock by a chunk; see `Pacer.generated`. Returns news of the speed."""
        self.commands.note_chunk()
        self.idle.note_chunk(now_s, busy=self.controls.is_busy or any(controls.actions))
        self._pacer.generated(
            now_s,
            num_frames=num_frames,
            took_s=took_s,
            decoding_s=decoding_s,
            flushes_older=self._flushes_older(controls),
        )
        news = self._speed.note_chunk(num_frames=num_frames, took_s=took_s, decoding_s=decoding_s)
        return self.send_notice(news) if news else []

    @property
    def stall_s(self) -> float:
        """Seconds for which the client had nothing left to show before the last chunk."""
        return self._pacer.stall_s

    def note_resume(self) -> None:
        """Notes the end of a pause; see `Pacer.note_resume`."""
        self._pacer.note_resume()

    def wait_to_generate_s(self, now_s: float) -> float:
        """Seconds until the next chunk may be generated.

        Infinite while the session is paused or awaits keys, and until an ack arrives.
        """
        return math.inf if self.idle.paused or self.awaits_keys else self._pacer.wait_s(now_s)

    @property
    def awaits_keys(self) -> bool:
        """True if nothing is generated until a script or a key comes."""
        return self.request is not None and self.request.on_demand and not self.controls.is_busy

    def wait_to_send_s(self, now_s: float) -> float:
        """Seconds until the next chunk may be sent: 0, or infinite until an ack arrives."""
        return 0.0 if self._pacer.may_send else math.inf

    def time_to_underrun_s(self, now_s: float) -> float:
        """Seconds until the client has no frames left to show; see `Pacer.time_to_underrun_s`."""
        return self._pacer.time_to_underrun_s(now_s)

    @property
    def _is_opening(self) -> bool:
        return self.state is State.RUNNING and self._session_id is None

    @property
    def _extensions(self) -> bool:
        return self.request is not None and self.request.extensions

    def _flushes_older(self, controls: ChunkControls) -> bool:
        assert self.request is not None
        return self.request.flushes_older and (controls.has_new_keys or controls.is_new_course)


def _too_large(num_bytes: int, limit: int) -> TooLarge:
    return TooLarge(f"a message of {num_bytes} bytes, expected at most {limit}")
