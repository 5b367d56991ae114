"""One WebSocket connection, from handshake to close. It receives, generates and sends at once."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import anyio
from anyio.lowlevel import checkpoint
from starlette.websockets import WebSocket, WebSocketDisconnect

from transport.codecs.picture import encode_jpeg
from transport.connection.chunk_generator import ChunkGenerator
from transport.connection.chunk_sender import ChunkSender
from transport.connection.chunk_slot import ChunkSlot
from transport.connection.close import (
    CANCELLED,
    CloseReason,
    close,
    close_reason_for,
    read_close_code,
)
from transport.connection.opening import WorldOpener
from transport.connection.presence import Presence
from transport.connection.sender import MessageSender
from transport.connection.turn import Signal, Turn, WaitS
from transport.image_fetcher import ImageFetcher
from transport.observer import Client, NoObserver, Observer, SessionEnd
from transport.session_log import log_closed, log_opened
from transport.wire.errors import TransportError, WorldLost
from transport.wire.init import SessionRequest
from transport.wire.limits import ClientLimits
from transport.wire.messages import Error, LastFrame, Moved, WarningMessage
from transport.wire.protocol import Effect, ServerProtocol
from transport.wire.world import World, WorldSession
from transport.worker_limits import CapacityLimits, run_in_worker

LAST_FRAME_QUALITY = 95  # of JPEG


class Connection:
    """One client and its world: the three tasks of a socket, and the state that they share."""

    def __init__(
        self,
        socket: WebSocket,
        world: World,
        *,
        limits: ClientLimits,
        capacity: CapacityLimits,
        fetcher: ImageFetcher | None = None,
        client: Client = Client(),  # noqa: B008  # frozen
        observer: Observer | None = None,
    ) -> None:
        """`fetcher` fetches a `first_frame` that is a URL; None: no URL is fetched."""
        self._client = client
        self._observer = (observer or NoObserver()).connected(client, anyio.current_time())
        self._socket = socket
        self._world = world
        self._limits = limits
        self._capacity = capacity
        self._protocol = ServerProtocol(world.info, limits=limits)
        self._sender = MessageSender(
            socket, timeout_s=limits.ack_timeout_s, on_progress=self._protocol.note_progress
        )
        self._requests_in, self._requests_out = anyio.create_memory_object_stream[SessionRequest](1)
        self._prompted = Signal()
        self._presence = Presence(self._protocol, limits=limits, observer=self._observer)
        # By a message, the end of this process, a pause and the end of one.
        self._changed = Signal()
        self._draining: str | None = None  # the reason
        self._session: WorldSession | None = None
        self._chunk_sender: ChunkSender | None = None
        self._opener = WorldOpener(
            world,
            self._requests_out,
            protocol=self._protocol,
            sender=self._sender,
            limits=limits,
            capacity=capacity,
            fetcher=fetcher or ImageFetcher(),
            observer=self._observer,
            reject=self._reject,
            handed_over=self._handed_over,
            wants_status=self._wants_status,
        )

    async def run(self) -> None:
        """Accepts the socket, serves one world and closes."""
        started_s = anyio.current_time()
        end = CANCELLED
        try:
            end = await self._run_tasks()
            if not end.client_left:
                last = self._protocol.send_close(end.code, end.reason, last=end.last)
                await close(self._socket, last)
        finally:
            self._report_end(end, duration_s=anyio.current_time() - started_s)

    def _report_end(self, end: CloseReason, *, duration_s: float) -> None:
        sent = self._chunk_sender
        summary = SessionEnd(
            session_id=self._session.id if self._session else None,
            label=end.label,
            code=end.code,
            reason=end.reason,
            duration_s=duration_s,
            num_chunks=sent.num_chunks if sent else 0,
            num_frames=sent.num_frames if sent else 0,
            num_bytes=sent.num_bytes if sent else 0,
        )
        log_closed(self._client, summary)
        self._observer.closed(anyio.current_time(), summary)

    async def _run_tasks(self) -> CloseReason:
        """Serves one world, and frees it or leaves it to another socket."""
        end = CANCELLED
        try:
            await self._socket.accept()
            with self._requests_in, self._requests_out:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._listen)
                    tasks.start_soon(self._watch_drain)
                    request, self._session = await self._opener.open()
                    await self._stream_session(request, self._session)
                    tasks.cancel_scope.cancel()
            end = CloseReason(code=1000, reason="done")
        except Exception as exc:
            end = close_reason_for(exc)
            if self._session and self._session.resume_token and end.code == 1006:
                end = replace(end, code=await read_close_code(self._socket))
        finally:
            if self._session is not None:
                leave = self._session.detach if end.keeps_world else self._session.close
                leave()
        return end

    # ---- receiving

    async def _listen(self) -> None:
        while True:
            # In one expression, so that no local variable keeps the image of a request.
            await self._handle_effects(
                [self._protocol.receive(await self._receive(), anyio.current_time())]
            )
            # A flood is read from a buffer without waiting. Other tasks need their turn.
            await checkpoint()

    async def _handle_effects(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SessionRequest():
                    self._requests_in.send_nowait(effect)
                case Error():
                    await self._sender.send(self._protocol.send_reply(effect))
                case [*receipt]:
                    for reply in receipt:
                        await self._sender.send(self._protocol.send_reply(reply))
        if self._protocol.has_new_prompt:
            self._prompted.notify()
        self._changed.notify()
        self._presence.note_message()

    async def _receive(self) -> bytes | str:
        # Not receive_bytes(): it raises KeyError on a text frame, which must be answered.
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005), message.get("reason"))
        data: bytes | None = message.get("bytes")
        text: str = message.get("text") or ""
        return text if data is None else data

    # ---- the world

    async def _reject(self, error: TransportError) -> None:
        await self._handle_effects(self._protocol.reject(error, anyio.current_time()))

    async def _stream_session(self, request: SessionRequest, session: WorldSession) -> None:
        """Generates chunks and sends them until the last one, or until the world is lost."""
        width, height, output = request.world.width, request.world.height, request.encoding.format
        log_opened(self._client, session.id, width=width, height=height, output=output)
        self._observer.opened(anyio.current_time(), session.id, width=width, height=height)
        may_idle = request.max_chunks is None
        self._protocol.idle.start(anyio.current_time(), may_idle=may_idle, age_s=session.age_s)
        opened = self._protocol.send_session(
            session.id,
            chunk_index=session.chunk_index,
            earliest_chunk=session.earliest_chunk,
            resume_token=session.resume_token,
        )
        await self._sender.send(opened)
        await self._send_last_frame(session)
        await self._send_notices([*request.warnings, *session.take_notices()])
        await self._handle_effects(self._protocol.release(anyio.current_time()))
        slot = ChunkSlot(latest=request.latest)
        self._chunk_sender = ChunkSender(
            self._sender,
            self._protocol,
            session_id=session.id,
            limiter=self._capacity.encode,
            on_sent=self._observer.sent,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_watch_session, session)
            follow = partial(self._presence.follow, on_change=self._changed.notify)
            tasks.start_soon(follow, session, self._sender)
            if self._world.info.encodes_prompts:
                tasks.start_soon(self._encode_prompts, session)
            generator = self._build_generator(session, slot, self._chunk_sender)
            tasks.start_soon(generator.run, request.max_chunks)
            await self._send_chunks(self._chunk_sender, slot)
            tasks.cancel_scope.cancel()

    async def _send_notices(self, notices: Sequence[WarningMessage | Moved]) -> None:
        for notice in notices:
            await self._sender.send(self._protocol.send_notice(notice))

    async def _send_last_frame(self, session: WorldSession) -> None:
        """Sends what a world that goes on showed last."""
        if (frame := session.last_frame) is None:
            return
        encode = partial(encode_jpeg, frame, quality=LAST_FRAME_QUALITY, chroma="444")
        data = await run_in_worker(encode, limiter=self._capacity.encode)
        message = LastFrame(content_type="image/jpeg", data=data)
        await self._sender.send(self._protocol.send_notice(message))

    async def _encode_prompts(self, session: WorldSession) -> None:
        """Encodes new prompts while chunks are generated with the old one."""
        while True:
            while new := self._protocol.take_new_prompt():
                try:
                    await session.encode(new.prompt)
                except TransportError as error:
                    await self._sender.send(self._protocol.send_prompt_refusal(new, error))
                else:
                    self._protocol.apply_prompt(new)
            await self._prompted.wait()

    def _build_generator(
        self, session: WorldSession, slot: ChunkSlot, sent: ChunkSender
    ) -> ChunkGenerator:
        return ChunkGenerator(
            session,
            self._world.info,
            protocol=self._protocol,
            sender=self._sender,
            slot=slot,
            presence=self._presence,
            turn=self._turn(self._protocol.wait_to_generate_s, command_s=self._command_s),
            decoding_s=lambda: sent.decoding_s,
            handed_over=self._handed_over,
        )

    def _turn(self, wait_s: WaitS, **command: WaitS) -> Turn:
        return Turn(
            wait_s,
            changed=self._changed,
            presence=self._presence,
            ack_timeout_s=self._limits.ack_timeout_s,
            **command,
        )

    def _command_s(self, now_s: float) -> float:
        """Seconds until generation must do something else."""
        return 0.0 if self._handed_over() is not None else self._protocol.commands.wait_s(now_s)

    async def _send_chunks(self, chunk_sender: ChunkSender, slot: ChunkSlot) -> None:
        """Chunk N is decoded and sent while chunk N + 1 is denoised."""
        turn = self._turn(self._protocol.wait_to_send_s)
        while await slot.wait():
            await turn.wait()
            if (chunk := slot.take()) is not None:
                await chunk_sender.send(chunk, dropped_frames=slot.num_dropped_frames)
                slot.finish()

    # ---- a process that goes away

    async def _watch_drain(self) -> None:
        self._draining = await self._world.draining()
        self._changed.notify()

    def _wants_status(self) -> bool:
        """False for a client that is away while its world waits for a place."""
        return self._session is None or self._presence.note_wait(self._session)

    def _handed_over(self) -> str | None:
        """Why the client shall resume elsewhere; a client without extensions cannot."""
        request = self._protocol.request
        return self._draining if request is not None and request.extensions else None


async def _watch_session(session: WorldSession) -> None:
    raise WorldLost(await session.lost())
