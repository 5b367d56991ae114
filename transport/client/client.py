"""One open world: sends controls, receives decoded chunks, and survives a lost socket."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from msgspec import msgpack
from msgspec.structs import replace
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from transport.client.asks import Answer, Ask, Asks, error_of
from transport.client.chunk_reader import Chunk, ChunkReader, ConnectionLost
from transport.client.dial import Dialer, resume_init
from transport.client.inbox import Inbox, Received
from transport.client.news import News, OnNews, Reconnected, Reconnecting, Status
from transport.client.sent_controls import SentControls, hold_payload
from transport.codecs.decoder import decode_picture
from transport.codecs.payload import Frame
from transport.wire.errors import TransportError
from transport.wire.messages import (
    ControlAck,
    Error,
    Forked,
    LastFrame,
    Moved,
    Queued,
    Reconnect,
    Rewound,
    ServerMessage,
    SessionOpened,
    SnapshotMessage,
    Starting,
    WarningMessage,
)

T = TypeVar("T", SnapshotMessage, Forked, Rewound)


class Client:
    """A world over one socket, or over several in turn; `connect` creates it."""

    def __init__(
        self,
        dialer: Dialer,
        *,
        init: dict[str, Any],
        on_news: OnNews | None = None,
        reconnect: bool = True,
    ) -> None:
        """`on_news` receives each pause, resume, change of speed, move, announced end and refusal.

        Once the world is open, it also receives what becomes of a lost socket.
        """
        self._dialer = dialer
        self._init = init
        self._on_news = on_news
        self._reconnect = reconnect
        self._socket: ClientConnection | None = None
        self._inbox = Inbox()
        script = (init.get("condition_inputs") or {}).get("camera_actions") or []
        self._controls = SentControls([list(keys) for keys in script])
        self._holds_controls = False  # until a lost world goes on
        self._catches_up = False  # until it is turned back to the first chunk that is missing
        self._asks = Asks()
        self._going_on: asyncio.Task[None] | None = None
        self._opened = False  # `wait` has seen the session
        self._unannounced: SessionOpened | None = None  # its last frame follows
        self._leaving = False  # the server has asked for another socket
        self._next_event_id = 1
        self._next_chunk = 0  # in the world
        self._num_chunks = 0  # that have arrived
        self.status = Status()
        self.session: SessionOpened | None = None
        self.last_frame: Frame | None = None  # of a world that goes on: what it showed last
        self.acked_events: list[int] = []  # ids of events that the server has accepted
        self.warnings: list[WarningMessage | Error] = []  # with the errors of refused events

    async def wait(self) -> AsyncIterator[Queued | Starting]:
        """Yields news of the queue until the world is open; then `session` is set.

        A world that goes on has its `last_frame`, too. Raises TransportError.
        """
        while not self._opened:
            match await self._inbox.get():
                case None:
                    raise TransportError("the server closed the socket before the world was open")
                case SessionOpened():
                    self._opened = True
                case Queued() | Starting() as status:
                    yield status

    async def next_chunk(self) -> Chunk | None:
        """The next chunk, which is acknowledged; None once the server has closed the session.

        Raises TransportError with the reason of an end, or for a message of another protocol.
        """
        while (item := await self._inbox.get()) is not None:
            if isinstance(item, Received):
                await self._acknowledge(item)
                return item.chunk
            self._opened = self._opened or isinstance(item, SessionOpened)
        return None

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Yields each chunk, as `next_chunk` returns it, until the server closes the session."""
        while (chunk := await self.next_chunk()) is not None:
            yield chunk

    async def send_actions(self, script: Sequence[Sequence[str]]) -> int:
        """Plays a script: one list of keys a latent frame. Returns the event's id."""
        event_id = self._new_event_id()
        self._controls.note_script(script, event_id=event_id)
        return await self._send_control("camera_actions", [list(keys) for keys in script], event_id)

    async def hold(self, *states: str) -> int:
        """Holds keys from now on, such as "wl". Returns the event's id.

        Several states are a history of key changes; the last one stays held.
        """
        event_id = self._new_event_id()
        self._controls.note_keys(states, event_id=event_id)
        return await self._send_control("camera_actions", hold_payload(states), event_id)

    async def prompt(self, text: str) -> int:
        """Changes the prompt from the next chunk on. Returns the event's id."""
        event_id = self._new_event_id()
        self._controls.note_prompt(text, event_id=event_id)
        return await self._send_control("prompt", text, event_id)

    async def change_output(self, **fields: Any) -> int:
        """Changes codec, quality or preview width for the following chunks.

        `fields` are fields of the wire's init. Returns the event's id.
        """
        event_id = self._new_event_id()
        self._controls.note_output(fields, event_id=event_id)
        return await self._send_control("output", fields, event_id)

    async def request_key_frame(self) -> int:
        """Requests an H.264 key frame, where decoding can begin. Returns the event's id."""
        return await self._send_control("key_frame", None, self._new_event_id())

    async def show(self, *, visible: bool) -> int:
        """Sends that somebody sees the frames, or nobody. Returns the event's id.

        A hidden session is paused until it is shown, or a key, a script or a prompt is sent.
        """
        payload = "visible" if visible else "hidden"
        return await self._send_control("visibility", payload, self._new_event_id())

    async def save(self) -> bytes:
        """Returns the world in one piece, which `connect(snapshot=...)` opens again.

        It is the world after a chunk that may still be on its way. Raises TransportError.
        """
        return (await self._ask(SnapshotMessage, "save")).data

    async def fork(self) -> Forked:
        """Returns a token, with which `connect(fork=...)` opens the same world again.

        It may be opened any number of times, until it expires. Raises TransportError.
        """
        return await self._ask(Forked, "fork")

    async def rewind(
        self, *, chunk_index: int | None = None, seconds: float | None = None
    ) -> Rewound:
        """Turns the world back to a chunk, or by so many seconds of its media.

        Chunks that were not taken before are dropped: the next one is of the world turned back.
        Raises TransportError, and the world stays where it is.
        """
        if (chunk_index is None) == (seconds is None):
            raise ValueError("expected either `chunk_index` or `seconds`")
        payload = {"seconds": seconds} if chunk_index is None else {"chunk_index": chunk_index}
        return await self._ask(Rewound, "rewind", payload)

    async def reset(self, *, seed: int | None = None, prompt: str | None = None) -> Rewound:
        """Begins the world anew, from its first frame. None keeps the seed or the prompt.

        Drops chunks as `rewind` does. Raises TransportError, and the world stays where it is.
        """
        fields = {"seed": seed, "prompt": prompt}
        payload = {name: value for name, value in fields.items() if value is not None}
        return await self._ask(Rewound, "reset", payload)

    async def _ask(self, expected: type[T], kind: str, payload: Any = None) -> T:
        """Sends an event and returns its answer. Raises TransportError in place of one."""
        answer = await (await self._send_ask(kind, payload))
        assert isinstance(answer, expected)
        return answer

    async def _send_ask(self, kind: str, payload: Any) -> asyncio.Future[Answer]:
        event_id = self._new_event_id()
        answer = self._asks.add(event_id, kind, payload)
        # A world that waits for an ack could not answer.
        for received in self._inbox.chunks:
            await self._acknowledge(received)
        await self._send_event(kind, payload, event_id)
        return answer

    async def begin(self, socket: ClientConnection, init: dict[str, Any]) -> None:
        """Sends the init. Events may follow at once; `run` must follow."""
        self._socket, self._leaving = socket, False
        await self._send({"type": "init", "extensions": True} | init)

    async def run(self) -> None:
        """Reads the socket, and others after it, until the session ends."""
        error: Exception | None = None
        try:
            while (lost := await self._read_socket()) is not None:
                session = self.session if self._reconnect else None
                if session is None or session.resume_token is None:
                    raise lost
                self._holds_controls = True
                self._stop_going_on()
                self._asks.note_loss()
                grace_s = session.resume_grace_s or 0.0
                if self._dialer.note_loss(within_s=grace_s):
                    self._note_news(Reconnecting(str(lost), grace_s))
                socket = await self._dialer.redial(lost)
                script = self._controls.script_for_init()
                init = resume_init(self._init, session, num_chunks=self._num_chunks, script=script)
                await self.begin(socket, init)
        except Exception as exc:
            error = exc
        finally:
            self._stop_going_on()
            self._asks.close(error or TransportError("the session has ended"))
            self._inbox.close(error)

    def _stop_going_on(self) -> None:
        if self._going_on is not None:
            self._going_on.cancel()

    async def _read_socket(self) -> ConnectionLost | None:
        """Reads to the end of a socket. None: the session is over."""
        assert self._socket is not None
        reader = ChunkReader(self._socket)
        try:
            while (message := await reader.read()) is not None:
                if isinstance(message, Chunk):
                    await self._receive(message)
                else:
                    self._handle(message)
        except ConnectionLost as lost:
            return lost
        return ConnectionLost("the server has gone away") if self._leaving else None

    def _announce(self) -> None:
        session, self._unannounced = self._unannounced, None
        if session is not None:
            self._inbox.put(session)

    async def _receive(self, chunk: Chunk) -> None:
        self._announce()  # no last frame has come
        self._next_chunk = chunk.world_index + 1
        self._num_chunks += 1
        applied = chunk.applied
        if not (self._holds_controls or self._catches_up):
            self._controls.note_chunk(applied.event_ids, num_latent_frames=len(applied.actions))
        received = Received(chunk, self._socket)
        if self._asks.pending:
            await self._acknowledge(received)
        self._inbox.put(received)

    def _handle(self, message: ServerMessage) -> None:
        match message:
            case Error():
                self._fail(message)
            case SessionOpened():
                self._open(message)
            case SnapshotMessage() | Forked():
                self._asks.answer(message)
            case Rewound():
                self._note_turn(message)
            case Reconnect():
                self._leaving = True
            case Queued() | Starting() if self.session is None:
                self._inbox.put(message)
            case _:
                self._note(message)

    def _note(self, message: ServerMessage) -> None:
        match message:
            case LastFrame():
                self.last_frame = decode_picture(message.data)
                self._announce()
            case ControlAck():
                self.acked_events.append(message.event_id)
                self._init |= self._controls.accept(message.event_id)  # for another socket, too
            case WarningMessage():
                self.warnings.append(message)
            case _ if isinstance(message, News):
                if isinstance(message, Moved) and self.session and message.resume_token:
                    self.session = replace(self.session, resume_token=message.resume_token)
                self._note_news(message)

    def _fail(self, message: Error) -> None:
        error = error_of(message)
        # The prompt of an init has no event, and may be refused once its world is open.
        is_prompt = message.field == "prompt" and self.session and not self._dialer.is_redialing
        if message.event_id in self._asks.pending:
            self._asks.fail(message.event_id, error)
        elif message.event_id is not None or is_prompt:
            self._controls.refuse(message.event_id)
            self.warnings.append(message)
            self._note_news(message)
        elif message.code == "busy" and self._dialer.is_redialing:
            raise ConnectionLost(message.content)  # there may be room a little later
        else:
            raise error

    def _note_turn(self, rewound: Rewound) -> None:
        self._next_chunk = rewound.world_chunk_index
        if self._catches_up:  # chunks of the last socket may not be taken yet
            self._catches_up = False
            self._inbox.drop_chunks(self._next_chunk)
        else:
            self._inbox.drop_chunks()
            self._controls.note_turn(event_id=rewound.event_id or 0)
        self._asks.answer(rewound)

    def _open(self, session: SessionOpened) -> None:
        is_first, self.session = self.session is None, session
        expected, self._next_chunk = self._next_chunk, session.world_chunk_index
        self._dialer.note_open()
        if is_first and session.world_chunk_index == 0:
            self._inbox.put(session)
        elif is_first:
            self._unannounced = session
        else:
            self.status = Status()
            self._resume(expected, session)

    def _resume(self, expected: int, session: SessionOpened) -> None:
        pending = dict(self._asks.pending)
        # In real time a chunk may be on its way that does not follow the keys that are held.
        may_lead = self._controls.has_events and self._init.get("realtime_delivery") != "on_demand"
        too_far = session.world_chunk_index > expected - int(may_lead)
        self._catches_up = too_far and not self._asks.turns
        if self._catches_up:
            self._inbox.hold_chunks()
        elif not self._asks.turns:
            self._controls.begin_init()
            self._holds_controls = False
        self._going_on = asyncio.create_task(self._go_on(expected, session, pending))

    async def _go_on(self, expected: int, session: SessionOpened, pending: dict[int, Ask]) -> None:
        """Turns a world back to the first chunk that did not arrive, and sends the controls again.

        Controls follow the rewind at once, so that no chunk comes between. A world that cannot be
        turned back goes on where it is.
        """
        turned = None
        if self._catches_up:
            turned = await self._send_ask("rewind", {"chunk_index": expected})
        for event_id, ask in pending.items():
            await self._send_event(ask.kind, ask.payload, event_id)
        rest = self._controls.rest(self._new_event_id(), with_script=self._holds_controls)
        self._holds_controls = False
        for kind, payload, control_id in rest:
            await self._send_event(kind, payload, control_id)
        resumes_at = session.world_chunk_index
        if turned is not None:
            with suppress(TransportError):
                resumes_at = (await turned).world_chunk_index
        self._catches_up = False
        self._inbox.release_chunks()
        self._note_news(Reconnected(resumes_at, num_lost_chunks=max(0, resumes_at - expected)))

    def _note_news(self, news: News) -> None:
        self.status.note(news)
        if self._on_news is not None:
            self._on_news(news)

    def _new_event_id(self) -> int:
        self._next_event_id += 1
        return self._next_event_id - 1

    async def _acknowledge(self, received: Received) -> None:
        socket, received.unacknowledged_on = received.unacknowledged_on, None
        if socket is not None and socket is self._socket:
            await self._send({"type": "ack", "chunk_index": received.chunk.index})

    async def _send_control(self, kind: str, payload: Any, event_id: int) -> int:
        if not self._holds_controls:
            await self._send_event(kind, payload, event_id)
        return event_id

    async def _send_event(self, kind: str, payload: Any, event_id: int | None) -> None:
        event = {"type": "event", "kind": kind, "event_id": event_id, "payload": payload}
        await self._send(event)

    async def _send(self, message: dict[str, Any]) -> None:
        assert self._socket is not None
        with suppress(ConnectionClosed):  # the next read returns the reason
            await self._socket.send(msgpack.encode(message))
