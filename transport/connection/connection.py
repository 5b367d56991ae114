"""One WebSocket from handshake to close: it listens, generates and sends side by side."""

import itertools
import logging
import math
from collections.abc import Callable
from functools import partial

import anyio
from anyio.lowlevel import checkpoint
from msgspec.structs import replace
from starlette.websockets import WebSocket, WebSocketDisconnect

from transport.codecs.image import decode_image
from transport.codecs.payload import Frame
from transport.connection.chunk_sender import ChunkSender
from transport.connection.chunk_slot import ChunkSlot, GeneratedChunk
from transport.connection.close import CloseReason, close, close_reason_for
from transport.connection.sender import MessageSender
from transport.wire.controls import MAX_SCRIPT_LATENT_FRAMES
from transport.wire.errors import BadMessage, Refused, TransportError, WorldLost
from transport.wire.init import SessionRequest
from transport.wire.limits import ClientLimits
from transport.wire.messages import (
    MAX_PROMPT_CHARS,
    Ack,
    ControlAck,
    Error,
    ServerMessage,
    SessionLimits,
    SessionOpened,
)
from transport.wire.pacing import MAX_UNACKNOWLEDGED_CHUNKS
from transport.wire.protocol import Effect, ServerProtocol
from transport.wire.world import World, WorldSession
from transport.worker_limits import CapacityLimits, run_in_worker

logger = logging.getLogger(__name__)


class Connection:
    """One client and one world: the three tasks of a socket, and the state that they share."""

    def __init__(
        self, socket: WebSocket, world: World, *, limits: ClientLimits, capacity: CapacityLimits
    ) -> None:
        self._socket = socket
        self._world = world
        self._limits = limits
        self._capacity = capacity
        self._conversation = ServerProtocol(world.info, limits=limits)
        self._outlet = MessageSender(socket, timeout_s=limits.ack_timeout_s)
        self._plan_in, self._plan_out = anyio.create_memory_object_stream[SessionRequest](1)
        self._acked = anyio.Event()
        self._decoding_s = 0.0  # that sending waited for pictures, the last time
        self._session_id = "none"
        self._delivery: ChunkSender | None = None

    async def run(self) -> None:
        """Accepts the socket, serves one world and closes."""
        await self._socket.accept()
        started = anyio.current_time()
        ending = CloseReason(1006, "cancelled")  # from outside: nothing can be sent any more
        try:
            ending = await self._play()
            await close(self._socket, ending, torn=self._outlet.torn)
        finally:
            sent = self._delivery
            logger.info(
                "session %s closed, %d %s: %d chunks, %d frames, %d bytes in %.1f s",
                self._session_id,
                ending.code,
                ending.reason,
                sent.num_chunks if sent else 0,
                sent.num_frames if sent else 0,
                sent.num_bytes if sent else 0,
                anyio.current_time() - started,
            )

    async def _play(self) -> CloseReason:
        try:
            with self._plan_in, self._plan_out:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._listen)
                    await self._converse()
                    tasks.cancel_scope.cancel()
        except Exception as exc:
            return close_reason_for(exc)
        return CloseReason(1000, "done")

    # ---- in

    async def _listen(self) -> None:
        while True:
            # One call, so that no name in here keeps the last plan's picture.
            await self._follow(self._conversation.receive(await self._receive()))
            # A flood is read from a buffer without waiting: let the others have their turn.
            await checkpoint()

    async def _follow(self, effect: Effect) -> None:
        match effect:
            case SessionRequest():
                self._plan_in.send_nowait(effect)
            case Ack():
                self._acked.set()
                self._acked = anyio.Event()
            case Error() | ControlAck():
                await self._outlet.send(effect)

    async def _receive(self) -> bytes | str:
        # Not receive_bytes(): it raises KeyError on a text frame, which deserves an answer.
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005), message.get("reason"))
        data: bytes | None = message.get("bytes")
        text: str = message.get("text") or ""
        return text if data is None else data

    # ---- the world

    async def _converse(self) -> None:
        """A world, from its opening to its end."""
        plan, session = await self._open()
        try:
            await self._journey(plan, session)
        finally:
            session.close()

    async def _open(self) -> tuple[SessionRequest, WorldSession]:
        """Inits until the world of one is open."""
        patience = self._limits.init_timeout_s  # for all of them, but not for the world's queue
        while True:
            started = anyio.current_time()
            plan, image = await self._agree(patience)
            patience -= anyio.current_time() - started
            on_wait = self._outlet.send if plan.extensions else _say_nothing
            try:
                return plan, await self._world.open(plan.world, image, on_wait=on_wait)
            except TransportError as error:
                if error.close_code is not None:
                    raise
                await self._outlet.send(self._conversation.reject(error))

    async def _agree(self, patience: float) -> tuple[SessionRequest, Frame]:
        """Inits until one holds, picture and all; its plan comes back without those megabytes."""
        with anyio.move_on_after(patience):
            while True:
                plan = await self._plan_out.receive()
                try:
                    return replace(plan, first_frame=None), await self._decode_image(plan)
                except BadMessage as error:
                    await self._outlet.send(self._conversation.reject(error))
        raise Refused(
            f"no init that can be used in {self._limits.init_timeout_s:g} s",
            code="timeout",
            close_code=1008,
        )

    async def _decode_image(self, plan: SessionRequest) -> Frame:
        source = plan.first_frame
        if source is None:
            source = self._world.info.openings[0].image
        width, height = plan.world.width, plan.world.height
        crop = partial(decode_image, source, width=width, height=height)
        return await run_in_worker(crop, limiter=self._capacity.decode_image)

    async def _journey(self, plan: SessionRequest, session: WorldSession) -> None:
        self._session_id = session.id
        encoding = plan.encoding.format
        logger.info(
            "session %s opened: %dx%d as %s",
            session.id,
            plan.world.width,
            plan.world.height,
            encoding,
        )
        if plan.extensions:
            await self._outlet.send(self._describe(plan, session))
        outbox = ChunkSlot(latest=plan.latest)
        self._delivery = ChunkSender(
            self._outlet,
            self._conversation.output,
            plan,
            session_id=session.id,
            limiter=self._capacity.encode,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_watch, session)
            tasks.start_soon(self._generate, plan, session, outbox)
            await self._deliver(self._delivery, outbox)
            tasks.cancel_scope.cancel()

    def _describe(self, plan: SessionRequest, session: WorldSession) -> SessionOpened:
        info = self._world.info
        return SessionOpened(
            session_id=session.id,
            width=plan.world.width,
            height=plan.world.height,
            fps=plan.fps,
            chunk_latent_frames=info.chunk_latent_frames,
            first_chunk_frames=info.first_chunk_frames,
            chunk_frames=info.chunk_frames,
            encoding=plan.encoding.format,
            limits=SessionLimits(
                max_event_bytes=self._limits.max_event_bytes,
                max_script_latent_frames=MAX_SCRIPT_LATENT_FRAMES,
                max_prompt_chars=MAX_PROMPT_CHARS,
                max_unacknowledged_chunks=MAX_UNACKNOWLEDGED_CHUNKS,
            ),
        )

    async def _generate(
        self, plan: SessionRequest, session: WorldSession, outbox: ChunkSlot
    ) -> None:
        controls, pacer = self._conversation.controls, self._conversation.pacer
        event_id: int | None = None
        position = 0
        for index in itertools.islice(itertools.count(), plan.max_chunks):
            waited = await self._wait_for_turn(pacer.wait_s)
            asked = anyio.current_time()
            taken = controls.take_chunk(self._world.info.chunk_latent_frames)
            event_id = taken.event_ids[-1] if taken.event_ids else event_id
            started = anyio.current_time()
            frames = await session.step(
                taken.actions,
                prompt=taken.prompt,
                time_to_underrun_s=pacer.time_to_underrun_s(started),
            )
            denoised = anyio.current_time()
            num_frames = self._num_frames_of(index)
            pacer.generated(
                denoised,
                num_frames=num_frames,
                took=denoised - started,
                decoding=self._decoding_s,
                cut_over=plan.flushes_older and taken.has_new_keys,
            )
            chunk = GeneratedChunk(
                index=index,
                frames=frames,
                num_frames=num_frames,
                position=position,
                controls=taken,
                event_id=event_id,
                waited_s=waited,
                prepared_s=started - asked,
                denoising_s=denoised - started,
            )
            position += num_frames
            await outbox.put(chunk)
        outbox.close()

    async def _deliver(self, delivery: ChunkSender, outbox: ChunkSlot) -> None:
        """Chunk N is decoded and sent while N + 1 is denoised."""
        pacer = self._conversation.pacer
        while await outbox.wait():
            await self._wait_for_turn(lambda now: 0.0 if pacer.may_send else math.inf)
            chunk = outbox.take()
            pacer.sent(chunk.index)
            self._decoding_s = await delivery.send(chunk, dropped_frames=outbox.num_dropped_frames)

    def _num_frames_of(self, index: int) -> int:
        info = self._world.info
        return info.chunk_frames if index else info.first_chunk_frames

    async def _wait_for_turn(self, wait_s: Callable[[float], float]) -> float:
        """Waits as long as `wait_s(now)` says; it is infinite where an ack must come first.

        Returns the seconds it took. Raises Refused if the ack does not come.
        """
        started, timeout = anyio.current_time(), self._limits.ack_timeout_s
        while (wait := wait_s(anyio.current_time())) > 0:
            with anyio.move_on_after(min(wait, timeout)) as patience:
                await self._acked.wait()
                while wait == wait_s(anyio.current_time()) == math.inf:
                    await self._acked.wait()  # it was one of an older chunk
            if patience.cancelled_caught and wait == math.inf:
                raise Refused(f"no ack came in {timeout:g} s", code="timeout", close_code=1008)
        return anyio.current_time() - started


async def _say_nothing(message: ServerMessage) -> None:
    """A client of the plain wire waits without news."""


async def _watch(session: WorldSession) -> None:
    raise WorldLost(await session.lost())
