"""One WebSocket connection, from handshake to close. It receives, generates and sends at once."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import anyio
from anyio.lowlevel import checkpoint
from starlette.websockets import WebSocket, WebSocketDisconnect

from transport.codecs.image import decode_image
from transport.codecs.payload import Frame
from transport.connection.chunk_sender import ChunkSender
from transport.connection.chunk_slot import ChunkSlot, GeneratedChunk
from transport.connection.close import CloseReason, close, close_reason_for
from transport.connection.presence import Presence
from transport.connection.sender import MessageSender
from transport.image_fetcher import ImageFetcher
from transport.observer import Client, NoObserver, Observer, SessionEnd
from transport.session_log import log_closed, log_opened
from transport.wire.errors import BadMessage, Refused, TransportError, WorldLost
from transport.wire.init import SessionRequest
from transport.wire.limits import ClientLimits
from transport.wire.messages import Ack, Error, Queued, Starting, WarningMessage
from transport.wire.protocol import Effect, ServerProtocol
from transport.wire.world import World, WorldSession
from transport.worker_limits import CapacityLimits, run_in_worker

# SGLang-Diffusion's, and its text: a client without extensions hears nothing while it waits.
PLAIN_QUEUE_TIMEOUT_S = 1.0
PLAIN_QUEUE_ERROR = "another realtime session is already active"


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
        self._fetcher = fetcher or ImageFetcher()
        self._protocol = ServerProtocol(world.info, limits=limits)
        self._sender = MessageSender(
            socket, timeout_s=limits.ack_timeout_s, on_progress=self._protocol.note_progress
        )
        self._requests_in, self._requests_out = anyio.create_memory_object_stream[SessionRequest](1)
        self._prompted = anyio.Event()
        self._presence = Presence(self._protocol, limits=limits, observer=self._observer)
        self._turn_changed = anyio.Event()  # set by an ack, a pause and the end of one
        self._decoding_s = 0.0  # sending waited so long for the last chunk's frames
        self._queued_since_s = 0.0
        self._session_id: str | None = None
        self._chunk_sender: ChunkSender | None = None

    async def run(self) -> None:
        """Accepts the socket, serves one world and closes."""
        started_s = anyio.current_time()
        end = CloseReason(code=1006, reason="cancelled")  # from outside: nothing can be sent
        try:
            end = await self._run_tasks()
            if not end.client_left:
                last = self._protocol.send_close(end.code, end.reason, error=end.error)
                await close(self._socket, last)
        finally:
            self._report_end(end, duration_s=anyio.current_time() - started_s)

    def _report_end(self, end: CloseReason, *, duration_s: float) -> None:
        sent = self._chunk_sender
        summary = SessionEnd(
            session_id=self._session_id,
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
        try:
            await self._socket.accept()
            with self._requests_in, self._requests_out:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._listen)
                    await self._serve()
                    tasks.cancel_scope.cancel()
        except Exception as exc:
            return close_reason_for(exc)
        return CloseReason(code=1000, reason="done")

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
                case Ack():
                    self._note_turn()
                case Error():
                    await self._sender.send(self._protocol.send_reply(effect))
                case [*receipt]:
                    for reply in receipt:
                        await self._sender.send(self._protocol.send_reply(reply))
        if self._protocol.has_new_prompt:
            self._prompted.set()
        self._presence.note_message()

    def _note_turn(self) -> None:
        self._turn_changed.set()
        self._turn_changed = anyio.Event()

    async def _receive(self) -> bytes | str:
        # Not receive_bytes(): it raises KeyError on a text frame, which must be answered.
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005), message.get("reason"))
        data: bytes | None = message.get("bytes")
        text: str = message.get("text") or ""
        return text if data is None else data

    # ---- the world

    async def _serve(self) -> None:
        """Opens a world, streams it and frees it."""
        request, session = await self._open()
        try:
            await self._stream_session(request, session)
        finally:
            session.close()

    async def _open(self) -> tuple[SessionRequest, WorldSession]:
        """Reads inits until the world of one is open."""
        remaining_s = self._limits.init_timeout_s  # the wait for a world does not count
        while True:
            started_s = anyio.current_time()
            request, image = await self._negotiate(timeout_s=remaining_s)
            self._queued_since_s = anyio.current_time()
            remaining_s -= self._queued_since_s - started_s
            self._observer.asked(self._queued_since_s)
            try:
                return request, await self._world.open(
                    request.world, image, on_wait=self._send_queue_status
                )
            except TransportError as error:
                if error.close_code is not None:
                    raise
                await self._reject(error)

    async def _negotiate(self, *, timeout_s: float) -> tuple[SessionRequest, Frame]:
        """Reads inits until one is valid. The request comes back without its encoded image."""
        with anyio.move_on_after(timeout_s):
            while True:
                request = await self._requests_out.receive()
                try:
                    image = await self._decode_image(request)
                    height, width = image.shape[:2]
                    return self._protocol.accept_image(width=width, height=height), image
                except BadMessage as error:
                    await self._reject(error)
        raise Refused(
            f"no valid init within {self._limits.init_timeout_s:g} s",
            code="timeout",
            close_code=1008,
        )

    async def _reject(self, error: TransportError) -> None:
        await self._handle_effects(self._protocol.reject(error, anyio.current_time()))

    async def _send_queue_status(self, status: Queued | Starting) -> None:
        """Raises Refused for a client that would wait in silence for a world of others."""
        now_s = anyio.current_time()
        self._observer.waits(status)
        assert self._protocol.request is not None
        if isinstance(status, Starting) or self._protocol.request.extensions:
            self._queued_since_s = now_s
        elif status.all_taken and now_s - self._queued_since_s >= PLAIN_QUEUE_TIMEOUT_S:
            raise Refused(PLAIN_QUEUE_ERROR, code="busy", close_code=1008)
        await self._sender.send(self._protocol.send_notice(status))

    async def _decode_image(self, request: SessionRequest) -> Frame:
        source = request.first_frame
        if source is None:
            source = self._world.info.openings[0].image
        source = await self._fetcher.fetch(source, field="first_frame")
        decode = partial(decode_image, source, sizes=request.sizes)
        return await run_in_worker(decode, limiter=self._capacity.decode_image)

    async def _stream_session(self, request: SessionRequest, session: WorldSession) -> None:
        """Generates chunks and sends them until the last one, or until the world is lost."""
        self._session_id = session.id
        width, height, output = request.world.width, request.world.height, request.encoding.format
        log_opened(self._client, session.id, width=width, height=height, output=output)
        self._observer.opened(anyio.current_time(), session.id, width=width, height=height)
        self._protocol.idle.start(anyio.current_time(), may_idle=request.max_chunks is None)
        await self._sender.send(self._protocol.send_session(session.id))
        await self._send_warnings([*request.warnings, *session.take_warnings()])
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
            follow = partial(self._presence.follow, on_change=self._note_turn)
            tasks.start_soon(follow, session, self._sender)
            if self._world.info.encodes_prompts:
                tasks.start_soon(self._encode_prompts, session)
            tasks.start_soon(self._generate, session, slot, request.max_chunks)
            await self._send_chunks(self._chunk_sender, slot)
            tasks.cancel_scope.cancel()

    async def _send_warnings(self, warnings: Sequence[WarningMessage]) -> None:
        for warning in warnings:
            await self._sender.send(self._protocol.send_notice(warning))

    async def _encode_prompts(self, session: WorldSession) -> None:
        """Encodes new prompts while chunks are generated with the old one."""
        while True:
            await self._prompted.wait()
            self._prompted = anyio.Event()
            while new := self._protocol.take_new_prompt():
                try:
                    await session.encode(new.prompt)
                except TransportError as error:
                    await self._sender.send(self._protocol.send_prompt_refusal(new, error))
                else:
                    self._protocol.apply_prompt(new)

    async def _generate(
        self, session: WorldSession, slot: ChunkSlot, max_chunks: int | None
    ) -> None:
        protocol = self._protocol
        position = 0
        for index in itertools.islice(itertools.count(), max_chunks):
            waited_s = await self._wait_for_turn(protocol.wait_to_generate_s)
            asked_s = anyio.current_time()
            controls = protocol.take_controls()
            started_s = anyio.current_time()
            with self._presence.step_of(session):
                frames = await session.step(
                    controls.actions,
                    prompt=controls.prompt,
                    time_to_underrun_s=protocol.time_to_underrun_s(started_s),
                )
            denoised_s = anyio.current_time()
            await self._send_warnings(session.take_warnings())
            num_frames = self._num_frames_of(index)
            news = protocol.chunk_generated(
                denoised_s,
                controls,
                num_frames=num_frames,
                took_s=denoised_s - started_s,
                decoding_s=self._decoding_s,
            )
            await self._sender.send(news)
            chunk = GeneratedChunk(
                index=index,
                frames=frames,
                num_frames=num_frames,
                position=position,
                controls=controls,
                begun_s=asked_s,
                resumed_s=self._presence.resumed_s,
                waited_s=waited_s,
                prepared_s=started_s - asked_s,
                denoising_s=denoised_s - started_s,
                stall_s=protocol.stall_s,
            )
            position += num_frames
            await slot.put(chunk)
        slot.close()

    async def _send_chunks(self, chunk_sender: ChunkSender, slot: ChunkSlot) -> None:
        """Chunk N is decoded and sent while chunk N + 1 is denoised."""
        while await slot.wait():
            await self._wait_for_turn(self._protocol.wait_to_send_s)
            self._decoding_s = await chunk_sender.send(
                slot.take(), dropped_frames=slot.num_dropped_frames
            )

    def _num_frames_of(self, index: int) -> int:
        info = self._world.info
        return info.chunk_frames if index else info.first_chunk_frames

    async def _wait_for_turn(self, wait_s: Callable[[float], float]) -> float:
        """Waits until `wait_s(now)` is 0; it is infinite until an ack arrives, and in a pause.

        Returns the seconds that it took, without a pause. Raises Refused if the ack does not
        arrive in time.
        """
        started_s = anyio.current_time()
        silent_s: float | None = None  # since when an ack is missing
        while (remaining_s := wait_s(now_s := anyio.current_time())) > 0:
            timeout_s = math.inf
            if remaining_s < math.inf:
                silent_s = None
            elif not self._presence.is_paused:
                silent_s = max(silent_s or now_s, self._presence.resumed_s)
                timeout_s = silent_s + self._limits.ack_timeout_s - now_s
            if timeout_s <= 0:
                text = f"no ack within {self._limits.ack_timeout_s:g} s"
                raise Refused(text, code="timeout", close_code=1008)
            with anyio.move_on_after(min(remaining_s, timeout_s)):
                await self._turn_changed.wait()
        return anyio.current_time() - max(started_s, self._presence.resumed_s)


async def _watch_session(session: WorldSession) -> None:
    raise WorldLost(await session.lost())
