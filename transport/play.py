"""One WebSocket from handshake to close: it listens, generates and sends side by side."""

import itertools
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import anyio
from anyio import to_thread
from anyio.lowlevel import checkpoint
from anyio.streams.memory import MemoryObjectSendStream
from starlette.websockets import WebSocket, WebSocketDisconnect

from transport.controls import MAX_SCRIPT_LATENT_FRAMES, Taken
from transport.errors import Refused, TransportError, WorldLost, close_reason
from transport.image import decode_first_frame
from transport.limits import Limits
from transport.messages import (
    MAX_PROMPT_CHARS,
    Ack,
    AppliedControls,
    ChunkStats,
    ControlAck,
    Error,
    Queued,
    ServerMessage,
    Session,
    SessionLimits,
    Warming,
    encode,
    error_message,
    milliseconds,
)
from transport.pacing import MAX_UNACKNOWLEDGED_CHUNKS
from transport.payload import Batch, Frames, build_chunk
from transport.protocol import Conversation, Plan
from transport.world import World, WorldSession, WorldSpec

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 5.0


@dataclass(slots=True, frozen=True)
class Chunk:
    """Generated, not sent yet. Times in seconds."""

    index: int
    frames: Frames
    taken: Taken
    event_id: int | None
    waited: float
    prepared: float
    forward: float


@dataclass(slots=True, frozen=True)
class Ending:
    """Why a socket closes."""

    code: int
    reason: str
    error: TransportError | None = None
    client_left: bool = False


async def play(
    socket: WebSocket, world: World, *, limits: Limits, threads: anyio.CapacityLimiter
) -> None:
    """Plays one world to one client. Images and payloads are worked on in `threads`."""
    await socket.accept()
    await Player(socket, world, limits=limits, threads=threads).run()


class Player:
    """The three tasks of a socket, and what they share."""

    def __init__(
        self,
        socket: WebSocket,
        world: World,
        *,
        limits: Limits,
        threads: anyio.CapacityLimiter,
    ) -> None:
        self._socket = socket
        self._world = world
        self._limits = limits
        self._threads = threads
        self._conversation = Conversation(world.info, limits=limits)
        self._plan_in, self._plan_out = anyio.create_memory_object_stream[Plan](1)
        self._acked = anyio.Event()
        self._sending = anyio.Lock(fast_acquire=True)
        self._torn = False  # a header is out and its payload is not
        self._session_id = "none"
        self._num_chunks = self._num_frames = self._num_bytes = 0

    async def run(self) -> None:
        started = anyio.current_time()
        try:
            with self._plan_in, self._plan_out:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._listen)
                    await self._converse()
                    tasks.cancel_scope.cancel()
            ending = Ending(1000, "done")
        except Exception as exc:
            ending = _judge(exc)
        await self._close(ending)
        logger.info(
            "session %s closed, %d %s: %d chunks, %d frames, %d bytes in %.1f s",
            self._session_id,
            ending.code,
            ending.reason,
            self._num_chunks,
            self._num_frames,
            self._num_bytes,
            anyio.current_time() - started,
        )

    # ---- in

    async def _listen(self) -> None:
        while True:
            match self._conversation.receive(await self._receive()):
                case Plan() as plan:
                    self._plan_in.send_nowait(plan)
                case Ack():
                    self._acked.set()
                case Error() | ControlAck() as reply:
                    await self._send(reply)
            # A flood is read from a buffer without waiting: let the others have their turn.
            await checkpoint()

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
        """Inits until one holds, then its world until the end."""
        session = None
        while session is None:
            try:
                with anyio.fail_after(self._limits.init_timeout_s):
                    plan = await self._plan_out.receive()
            except TimeoutError:
                raise Refused(
                    f"no init in {self._limits.init_timeout_s:g} s", code="timeout", close_code=1008
                ) from None
            session = await self._open(plan)
        try:
            await self._journey(plan, session)
        finally:
            session.close()

    async def _open(self, plan: Plan) -> WorldSession | None:
        """None where the client was told why not and may try again."""

        async def on_wait(message: Queued | Warming) -> None:
            if plan.extensions:
                await self._send(message)

        try:
            return await self._world.open(await self._spec(plan), on_wait=on_wait)
        except TransportError as error:
            if error.close_code is not None:
                raise
            await self._send(self._conversation.reject(error))
            return None

    async def _spec(self, plan: Plan) -> WorldSpec:
        source = plan.first_frame
        if source is None:
            source = self._world.info.openings[0].image
        crop = partial(decode_first_frame, source, width=plan.width, height=plan.height)
        return WorldSpec(
            prompt=plan.prompt,
            seed=plan.seed,
            width=plan.width,
            height=plan.height,
            first_frame=await to_thread.run_sync(crop, limiter=self._threads),
            num_steps=plan.num_steps,
            window=plan.window,
            sink=plan.sink,
        )

    async def _journey(self, plan: Plan, session: WorldSession) -> None:
        self._session_id = session.id
        encoding = plan.encoding.format
        logger.info("session %s opened: %dx%d as %s", session.id, plan.width, plan.height, encoding)
        if plan.extensions:
            await self._send(self._describe(plan, session))
        # No buffer: chunk N is sent while N + 1 is generated, and no chunk waits to grow stale.
        chunk_in, chunk_out = anyio.create_memory_object_stream[Chunk](0)
        with chunk_in, chunk_out:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_watch, session)
                tasks.start_soon(self._generate, plan, session, chunk_in)
                async for chunk in chunk_out:
                    await self._send(await self._send_chunk(plan, session.id, chunk))
                tasks.cancel_scope.cancel()

    def _describe(self, plan: Plan, session: WorldSession) -> Session:
        info = self._world.info
        return Session(
            session_id=session.id,
            width=plan.width,
            height=plan.height,
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
        self, plan: Plan, session: WorldSession, chunks: MemoryObjectSendStream[Chunk]
    ) -> None:
        controls, pacer = self._conversation.controls, self._conversation.pacer
        event_id: int | None = None
        with chunks:
            for index in itertools.islice(itertools.count(), plan.max_chunks):
                waited = await self._pace()
                asked = anyio.current_time()
                taken = controls.take(self._world.info.chunk_latent_frames)
                event_id = taken.event_ids[-1] if taken.event_ids else event_id
                started = anyio.current_time()
                frames = await session.step(taken.actions, prompt=taken.prompt)
                now = anyio.current_time()
                pacer.generated(now, num_frames=len(frames), took=now - started)
                await chunks.send(
                    Chunk(index, frames, taken, event_id, waited, started - asked, now - started)
                )

    async def _pace(self) -> float:
        """Waits until the next chunk is due; returns the seconds it took."""
        pacer, timeout = self._conversation.pacer, self._limits.ack_timeout_s
        started = anyio.current_time()
        while (wait := pacer.wait_s(anyio.current_time())) > 0:
            self._acked = anyio.Event()
            with anyio.move_on_after(min(wait, timeout)) as patience:
                await self._acked.wait()
            if patience.cancelled_caught and wait == math.inf:
                raise Refused(f"no ack in {timeout:g} s", code="timeout", close_code=1008)
        return anyio.current_time() - started

    # ---- out

    async def _send_chunk(self, plan: Plan, session_id: str, chunk: Chunk) -> ChunkStats:
        request_id = f"{session_id}-{chunk.index}"
        started = anyio.current_time()
        build = partial(
            build_chunk,
            chunk.frames,
            plan.encoding,
            request_id=request_id,
            chunk_index=chunk.index,
            event_id=chunk.event_id,
            applied=_applied(chunk.taken) if plan.extensions else None,
        )
        batches = await to_thread.run_sync(build, limiter=self._threads)
        built = anyio.current_time()
        header_write = sum([await self._send_batch(batch) for batch in batches])
        now = anyio.current_time()
        num_bytes = sum(batch.num_payload_bytes for batch in batches)
        self._num_chunks += 1
        self._num_frames += len(chunk.frames)
        self._num_bytes += num_bytes
        return ChunkStats(
            session_id=session_id,
            request_id=request_id,
            chunk_index=chunk.index,
            event_id=chunk.event_id,
            request_prepare_ms=milliseconds(chunk.prepared),
            scheduler_forward_ms=milliseconds(chunk.forward),
            pace_wait_ms=milliseconds(chunk.waited),
            header_write_ms=milliseconds(header_write),
            raw_payload_build_ms=milliseconds(built - started),
            raw_write_ms=milliseconds(now - built - header_write),
            ws_write_ms=milliseconds(now - built),
            chunk_total_ms=milliseconds(chunk.prepared + chunk.forward + now - started),
            num_batches=len(batches),
            num_frames=len(chunk.frames),
            raw_bytes=chunk.frames.nbytes,
            ws_payload_bytes=num_bytes,
            content_type=batches[0].content_type,
        )

    async def _send_batch(self, batch: Batch) -> float:
        """Header and payload, with nothing between them; returns the seconds of the header."""
        *header, last = batch.parts
        async with self._sending:
            started = anyio.current_time()
            self._torn = bool(header)
            for part in header:
                await self._write(part)
            header_sent = anyio.current_time()
            await self._write(last)
            self._torn = False
        return header_sent - started

    async def _send(self, message: ServerMessage) -> None:
        async with self._sending:
            await self._write(encode(message))

    async def _write(self, data: bytes) -> None:
        try:
            await self._socket.send_bytes(data)
        except RuntimeError as exc:  # what some servers raise once the client has left
            raise WebSocketDisconnect(1006) from exc

    async def _close(self, ending: Ending) -> None:
        if ending.client_left:
            return
        with anyio.move_on_after(CLOSE_TIMEOUT_S):  # a client that reads nothing blocks a send
            try:
                # After half a batch the next binary frame would be taken for the payload.
                if ending.error is not None and not self._torn:
                    await self._send(error_message(ending.error))
                await self._socket.close(ending.code, close_reason(ending.reason))
            except (WebSocketDisconnect, RuntimeError):
                pass  # the client left meanwhile


async def _watch(session: WorldSession) -> None:
    raise WorldLost(await session.lost())


def _applied(taken: Taken) -> AppliedControls:
    return AppliedControls([list(action) for action in taken.actions], taken.event_ids)


def _judge(exc: Exception) -> Ending:
    """What a failure of some tasks means. Of an unexpected one the client sees no detail."""
    failures = list(_leaves(exc))
    for failure in failures:
        if isinstance(failure, WebSocketDisconnect):
            return Ending(failure.code, "the client left", client_left=True)
    for failure in failures:
        if isinstance(failure, TransportError):
            return Ending(failure.close_code or 1008, str(failure), failure)
    logger.error("a session failed", exc_info=exc)
    return Ending(1011, "internal error", TransportError("internal error"))


def _leaves(exc: Exception) -> Iterator[Exception]:
    if isinstance(exc, ExceptionGroup):
        for inner in exc.exceptions:
            yield from _leaves(inner)
    else:
        yield exc
