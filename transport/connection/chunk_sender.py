"""A session's chunks on their way out: encoded in threads, in order, sent as they are encoded."""

import logging
from dataclasses import dataclass, field
from functools import partial

import anyio
from anyio import CapacityLimiter
from msgspec.structs import replace

from transport.codecs import open_encoder
from transport.codecs.payload import (
    Encoder,
    FrameBatch,
    Frames,
    Payload,
    build_message,
    split_chunk,
)
from transport.connection.chunk_slot import GeneratedChunk
from transport.connection.sender import MessageSender
from transport.wire.init import SessionRequest
from transport.wire.messages import (
    AppliedControls,
    ChunkStats,
    Encoding,
    HeaderExtras,
    WarningMessage,
    milliseconds,
)
from transport.wire.output_settings import OutputSettings
from transport.worker_limits import run_in_worker

FALLBACK_FORMAT = "jpeg"  # where another codec fails

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Figures:
    """Where one chunk's time and bytes went."""

    build_s: float = 0.0  # that sending waited for payloads
    header_write_s: float = 0.0
    payload_write_s: float = 0.0
    num_bytes: int = 0
    num_batches: int = 0
    content_type: str = ""


class CodecFailed(Exception):
    """A payload could not be made; its cause is the codec's own exception."""

    def __init__(self, start: int) -> None:
        super().__init__(f"frame {start} of a chunk could not be encoded")
        self.start = start


@dataclass(slots=True)
class Slot:
    """A payload in the making."""

    piece: FrameBatch
    payload: Payload | None = None
    error: Exception | None = None
    done: anyio.Event = field(default_factory=anyio.Event)


class ChunkSender:
    """One session's. Frames are encoded as `output` says when their chunk's turn comes."""

    def __init__(
        self,
        outlet: MessageSender,
        output: OutputSettings,
        plan: SessionRequest,
        *,
        session_id: str,
        limiter: CapacityLimiter,
    ) -> None:
        """`limiter` in threads are shared by all sessions, and given in the order they were asked
        for; a session never asks for more than there are, so that each gets its turn,
        piece by piece.
        """
        self._outlet = outlet
        self._output = output
        self._plan = plan
        self._session_id = session_id
        self._limiter = limiter
        self._encoding: Encoding | None = None
        self._encoder: Encoder
        self._dropped_frames = 0
        self.num_chunks = self.num_frames = self.num_bytes = 0

    async def send(self, chunk: GeneratedChunk, *, dropped_frames: int = 0) -> float:
        """The chunk's frames, then its stats. Returns the seconds that it waited for the frames.

        `dropped_frames`: of the session so far. Raises what a codec of last resort raises.
        """
        asked = anyio.current_time()
        frames = await chunk.frames
        started = anyio.current_time()
        figures = Figures()
        self._follow_output()
        if dropped_frames > self._dropped_frames:  # who joins or records may begin after the gap
            self._encoder.restart()
            self._dropped_frames = dropped_frames
        await self._send_frames(chunk, frames, figures, self._extras(chunk, dropped_frames))
        self.num_chunks += 1
        self.num_frames += len(frames)
        self.num_bytes += figures.num_bytes
        stats = self._stats(chunk, frames, figures, decoding=started - asked, since=started)
        await self._outlet.send(stats)
        return started - asked

    async def _send_frames(
        self, chunk: GeneratedChunk, frames: Frames, figures: Figures, extras: HeaderExtras | None
    ) -> None:
        start = 0
        while start < len(frames):
            pieces = split_chunk(frames, self._encoder, start=start, position=chunk.position)
            try:
                await self._send_pieces(chunk, pieces, figures, extras)
                return
            except CodecFailed as failure:
                start = await self._fall_back(failure)

    async def _send_pieces(
        self,
        chunk: GeneratedChunk,
        pieces: list[FrameBatch],
        figures: Figures,
        extras: HeaderExtras | None,
    ) -> None:
        """Raises CodecFailed for the first piece that cannot be encoded; those before are sent."""
        slots = [Slot(piece) for piece in pieces]
        num_batches = figures.num_batches + len(pieces)
        async with anyio.create_task_group() as tasks:
            num_lanes = 1 if self._encoder.is_sequential else int(self._limiter.total_tokens)
            for lane in range(num_lanes):
                tasks.start_soon(self._encode, slots[lane::num_lanes])
            for slot in slots:
                asked = anyio.current_time()
                await slot.done.wait()
                figures.build_s += anyio.current_time() - asked
                if slot.payload is None:
                    tasks.cancel_scope.cancel()
                    break
                batch = build_message(
                    slot.payload,
                    request_id=self._request_id(chunk),
                    chunk_index=chunk.index,
                    index=figures.num_batches,
                    num_batches=num_batches,
                    event_id=chunk.event_id,
                    extras=extras if figures.num_batches == 0 else continued(extras),
                )
                header_s, payload_s = await self._outlet.send_batch(batch)
                figures.header_write_s += header_s
                figures.payload_write_s += payload_s
                figures.num_bytes += batch.num_bytes
                figures.num_batches += 1
                figures.content_type = batch.content_type
        for slot in slots:
            if slot.error is not None:
                raise CodecFailed(slot.piece.start) from slot.error

    async def _encode(self, slots: list[Slot]) -> None:
        for slot in slots:
            encode = partial(self._encoder.encode, slot.piece)
            try:
                slot.payload = (
                    await run_in_worker(encode, limiter=self._limiter)
                    if self._encoder.needs_worker
                    else encode()
                )
            except Exception as exc:  # whatever a codec's library raises
                slot.error = exc
                return
            finally:
                slot.done.set()

    def _follow_output(self) -> None:
        """What the client asked for since the last chunk."""
        output = self._output
        if output.encoding != self._encoding:
            self._open(output.encoding)
        elif output.key_frame_wanted:
            self._encoder.restart()
        output.key_frame_wanted = False

    def _open(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._encoder = open_encoder(encoding, fps=self._plan.fps, extensions=self._plan.extensions)

    async def _fall_back(self, failure: CodecFailed) -> int:
        """End the chunk with the codec of last resort; the frame at which it takes over."""
        assert self._encoding is not None
        name = self._encoding.format
        if name == FALLBACK_FORMAT:
            raise failure
        logger.error(
            "session %s: %s failed, going on with %s",
            self._session_id,
            name,
            FALLBACK_FORMAT,
            exc_info=failure.__cause__,
        )
        preview = None if name == "delta-zstd" else self._encoding.preview_max_width
        fallback = replace(self._encoding, format=FALLBACK_FORMAT, preview_max_width=preview)
        if self._output.encoding == self._encoding:  # else the client wants another one next
            self._output.encoding = fallback
        self._open(fallback)
        if self._plan.extensions:
            text = f"{name} failed; the frames come as {FALLBACK_FORMAT} instead"
            await self._outlet.send(WarningMessage(text, code="codec_failed"))
        return failure.start

    def _extras(self, chunk: GeneratedChunk, dropped_frames: int) -> HeaderExtras | None:
        if not self._plan.extensions:
            return None
        controls = chunk.controls
        return HeaderExtras(
            AppliedControls([list(action) for action in controls.actions], controls.event_ids),
            cut_over=self._plan.flushes_older and controls.has_new_keys,
            dropped_frames=dropped_frames,
        )

    def _request_id(self, chunk: GeneratedChunk) -> str:
        return f"{self._session_id}-{chunk.index}"

    def _stats(
        self,
        chunk: GeneratedChunk,
        frames: Frames,
        figures: Figures,
        *,
        decoding: float,
        since: float,
    ) -> ChunkStats:
        forward = chunk.denoising_s + decoding
        sending = anyio.current_time() - since
        return ChunkStats(
            session_id=self._session_id,
            request_id=self._request_id(chunk),
            chunk_index=chunk.index,
            event_id=chunk.event_id,
            request_prepare_ms=milliseconds(chunk.prepared_s),
            scheduler_forward_ms=milliseconds(forward),
            pace_wait_ms=milliseconds(chunk.waited_s),
            header_write_ms=milliseconds(figures.header_write_s),
            raw_payload_build_ms=milliseconds(figures.build_s),
            raw_write_ms=milliseconds(figures.payload_write_s),
            ws_write_ms=milliseconds(figures.header_write_s + figures.payload_write_s),
            chunk_total_ms=milliseconds(chunk.prepared_s + forward + sending),
            num_batches=figures.num_batches,
            num_frames=len(frames),
            raw_bytes=frames.nbytes,
            ws_payload_bytes=figures.num_bytes,
            content_type=figures.content_type,
        )


def continued(extras: HeaderExtras | None) -> HeaderExtras | None:
    """Of a chunk's later batches: older frames went with the first."""
    return replace(extras, cut_over=False) if extras else None
