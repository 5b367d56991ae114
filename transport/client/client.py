"""Opens a world over the WebSocket, sends controls and receives decoded chunks."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct, msgpack
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

from transport.codecs.decoder import Decoder
from transport.codecs.payload import Frames
from transport.paths import SOCKET_PATH
from transport.wire.errors import TransportError
from transport.wire.messages import (
    AppliedControls,
    ChunkStats,
    ControlAck,
    Ending,
    Error,
    FrameBatchHeader,
    HeaderExtras,
    Paced,
    Paused,
    PauseReason,
    Queued,
    Resumed,
    ServerMessage,
    SessionOpened,
    Starting,
    WarningMessage,
)

News = Paused | Resumed | Paced | Ending
OnNews = Callable[[News], None]

DEFAULT_URL = f"ws://127.0.0.1:8000{SOCKET_PATH}"


class Chunk(Struct, frozen=True, kw_only=True):
    """A whole chunk as it was received."""

    index: int
    frames: Frames
    event_id: int | None  # the newest event that this chunk follows
    applied: AppliedControls
    flushes_older: bool  # frames of older chunks that are not shown yet may be skipped
    dropped_frames: int  # frames that the server has dropped since the session opened
    content_type: str
    stats: ChunkStats


class Client:
    """One open world; `connect` creates it."""

    def __init__(self, socket: ClientConnection, *, on_news: OnNews | None = None) -> None:
        """`on_news` receives each pause, resume, change of speed and announced end."""
        self._socket = socket
        self._on_news = on_news
        self._next_event_id = 1
        self.paused: PauseReason | None = None
        self.speed_percent = 100  # of real time
        self.ending: Ending | None = None  # the announced end; a resume takes back that of a pause
        self.session: SessionOpened | None = None
        self.acked_events: list[int] = []  # ids of events that the server has accepted
        self.warnings: list[WarningMessage] = []
        self._decoder = Decoder()

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Yields each chunk and acknowledges it, until the server closes the session.

        Raises TransportError with the server's reason, or for a message of another protocol.
        """
        while (chunk := await self._read_chunk()) is not None:
            yield chunk

    async def send_actions(self, script: Sequence[Sequence[str]]) -> int:
        """Plays a script: one list of keys a latent frame. Returns the event's id."""
        return await self._send_event("camera_actions", [list(keys) for keys in script])

    async def hold(self, *states: str) -> int:
        """Holds keys from now on, such as "wl". Returns the event's id.

        Several states are a history of key changes; the last one stays held.
        """
        transitions = [{"actions": list(keys)} for keys in states]
        payload = {"mode": "state", "transitions": transitions}
        return await self._send_event("camera_actions", payload)

    async def prompt(self, text: str) -> int:
        """Changes the prompt from the next chunk on. Returns the event's id."""
        return await self._send_event("prompt", text)

    async def change_output(self, **fields: Any) -> int:
        """Changes codec, quality or preview width for the following chunks.

        `fields` are fields of the wire's init. Returns the event's id.
        """
        return await self._send_event("output", fields)

    async def request_key_frame(self) -> int:
        """Requests an H.264 key frame, where decoding can begin. Returns the event's id."""
        return await self._send_event("key_frame", None)

    async def show(self, *, visible: bool) -> int:
        """Sends that somebody sees the frames, or nobody. Returns the event's id.

        A hidden session is paused until it is shown, or a key, a script or a prompt is sent.
        """
        return await self._send_event("visibility", "visible" if visible else "hidden")

    async def wait(self) -> AsyncIterator[Queued | Starting]:
        """Yields news of the queue until the world is open; then `session` is set.

        Raises TransportError.
        """
        while self.session is None:
            data = await self._receive()
            if data is None:
                raise TransportError("the server closed the socket before the world was open")
            with _other_protocol():
                message = msgpack.decode(data, type=ServerMessage)
            self._handle(message)
            if isinstance(message, Queued | Starting):
                yield message

    async def _read_chunk(self) -> Chunk | None:
        """The next whole chunk; None after a normal close."""
        batches: list[Frames] = []
        header = extras = None
        while (data := await self._receive()) is not None:
            with _other_protocol():
                fields = msgpack.decode(data, type=dict[str, Any])
                if fields["type"] not in ("frame_batch", "frame_batch_header"):
                    message = msgspec.convert(fields, ServerMessage)
                else:
                    message = msgspec.convert(
                        fields | {"type": "frame_batch_header"}, FrameBatchHeader
                    )
                    if message.frame_batch_index == 0 or extras is None:
                        extras = msgspec.convert(fields, HeaderExtras)
            if isinstance(message, FrameBatchHeader):
                header = message
                batches.append(await self._receive_frames(fields))
                if header.is_final_frame_batch:
                    await self._send({"type": "ack", "chunk_index": header.chunk_index})
                continue
            self._handle(message)
            if isinstance(message, ChunkStats) and header is not None and extras is not None:
                return _build_chunk(header, extras, batches, message)
        return None

    async def _receive_frames(self, header: dict[str, Any]) -> Frames:
        payload = header.get("payload") or await self._receive()
        if payload is None:
            raise TransportError("the server closed the socket before a payload")
        try:
            return await asyncio.to_thread(self._decoder.decode, header, payload)
        except Exception as exc:  # each codec's library has errors of its own
            raise TransportError(f"a payload cannot be decoded: {exc}") from exc

    async def _receive(self) -> bytes | None:
        """The next binary frame; None after a normal close."""
        try:
            return await self._socket.recv(decode=False)
        except ConnectionClosedOK:
            return None
        except ConnectionClosed as exc:
            code, reason = (exc.rcvd.code, exc.rcvd.reason) if exc.rcvd else (1006, "")
            raise TransportError(
                reason or f"the connection broke, code {code}", close_code=code
            ) from exc

    def _handle(self, message: ServerMessage) -> None:
        match message:
            case Error():
                raise TransportError(
                    message.content,
                    code=message.code,
                    field=message.field,
                    retry_after_s=message.retry_after_s,
                )
            case SessionOpened():
                self.session = message
            case ControlAck():
                self.acked_events.append(message.event_id)
            case WarningMessage():
                self.warnings.append(message)
            case Paused() | Resumed() | Paced() | Ending():
                self._note_news(message)

    def _note_news(self, news: News) -> None:
        match news:
            case Paused(reason):
                self.paused = reason
            case Resumed():
                self.paused = None
                if self.ending is not None and self.ending.reason == "idle":
                    self.ending = None
            case Paced(speed_percent):
                self.speed_percent = speed_percent
            case Ending():
                self.ending = news
        if self._on_news is not None:
            self._on_news(news)

    async def _send_event(self, kind: str, payload: Any) -> int:
        event_id = self._next_event_id
        self._next_event_id += 1
        await self._send({"type": "event", "kind": kind, "event_id": event_id, "payload": payload})
        return event_id

    async def _send(self, message: dict[str, Any]) -> None:
        with suppress(ConnectionClosed):  # the next receive raises with the reason
            await self._socket.send(msgpack.encode(message))


@asynccontextmanager
async def connect(
    url: str = DEFAULT_URL,
    *,
    token: str | None = None,
    on_news: OnNews | None = None,
    **init: Any,
) -> AsyncIterator[Client]:
    """Opens a world. `init` holds fields of the wire's init; None means the default.

    `token` is the bearer token, for a server that asks for one.
    Iterate `wait()` to follow the queue, or `chunks()` at once.
    """
    # Deflating frames costs more time than it saves. Acks bound the queue; with a bound of its
    # own, the socket would not read the server's answer to a close.
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with open_socket(
        url, compression=None, max_size=None, max_queue=None, additional_headers=headers
    ) as socket:
        fields = {name: value for name, value in init.items() if value is not None}
        client = Client(socket, on_news=on_news)
        await client._send({"type": "init", "extensions": True} | fields)
        yield client


@contextmanager
def _other_protocol() -> Iterator[None]:
    """Turns what decoding raises into TransportError."""
    try:
        yield
    except (msgspec.MsgspecError, KeyError) as exc:
        raise TransportError(f"the server speaks another protocol: {exc}") from exc


def _build_chunk(
    header: FrameBatchHeader, extras: HeaderExtras, batches: list[Frames], stats: ChunkStats
) -> Chunk:
    if len({frames.shape[1:] for frames in batches}) > 1:
        raise TransportError("the size of the frames changed within a chunk")
    return Chunk(
        index=header.chunk_index,
        frames=np.concatenate(batches),
        event_id=header.event_id,
        applied=extras.applied_controls,
        flushes_older=extras.cut_over,
        dropped_frames=extras.dropped_frames,
        content_type=header.content_type,
        stats=stats,
    )
