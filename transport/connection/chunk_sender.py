"""Encodes a session's chunks in worker threads, and sends each batch in order once it is ready."""

import logging
import math
from collections.abc import Callable
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
    build_header,
    split_chunk,
)
from transport.connection.chunk_slot import GeneratedChunk
from transport.connection.sender import MessageSender
from transport.observer import SentChunk
from transport.wire.messages import ChunkStats, Encoding, Format, WarningMessage
from transport.wire.protocol import ServerProtocol
from transport.worker_limits import run_in_worker

FALLBACK_FORMAT: Format = "jpeg"  # replaces a codec that fails

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class SendStats:
    """The time and the bytes of one chunk."""

    build_s: float = 0.0  # sending waited for payloads
    header_write_s: float = 0.0
    payload_write_s: float = 0.0
    num_bytes: int = 0
    num_batches: int = 0
    content_type: str = ""
    encoded_s: float = 0.0  # when sending had its last payload, on the event loop's clock
    first_byte_s: float | None = None  # when writing began


class CodecFailed(Exception):
    """A payload could not be encoded; the cause is the codec's own exception."""

    def __init__(self, start: int) -> None:
        super().__init__(f"frame {start} of a chunk could not be encoded")
        self.start = start


@dataclass(slots=True, kw_only=True)
class PendingPayload:
    """A batch that a worker encodes. When `done` is set, there is a payload or an error."""

    batch: FrameBatch
    payload: Payload | None = None
    error: Exception | None = None
    done: anyio.Event = field(default_factory=anyio.Event)


class ChunkSender:
    """Sends the chunks of one session. A change of output takes effect with the next chunk."""

    def __init__(
        self,
        sender: MessageSender,
        protocol: ServerProtocol,
        *,
        session_id: str,
        limiter: CapacityLimiter,
        on_sent: Callable[[SentChunk], None] = lambda chunk: None,
    ) -> None:
        """`limiter` is shared by all sessions and FIFO.

        A session holds at most as many requests as there are slots, so sessions alternate per
        batch. `on_sent` receives each chunk that was sent.
        """
        assert protocol.request is not None
        self._sender = sender
        self._protocol = protocol
        self._request = protocol.request
        self._output = protocol.output
        self._session_id = session_id
        self._limiter = limiter
        self._on_sent = on_sent
        self._encoding: Encoding | None = None
        self._encoder: Encoder
        self._dropped_frames = 0
        self._begun_s: float | None = None  # when the last chunk that was sent had begun
        self.num_chunks = self.num_frames = self.num_bytes = 0
        self.decoding_s = 0.0  # sending waited so long for the last chunk's frames

    async def send(self, chunk: GeneratedChunk, *, dropped_frames: int = 0) -> None:
        """Sends the chunk's frames, then its stats.

        `dropped_frames` counts those of the session so far. Raises CodecFailed if the fallback
        format fails, too.
        """
        asked_s = anyio.current_time()
        frames = await chunk.frames
        decoded_s = anyio.current_time()
        decoding_s = decoded_s - asked_s
        stats = SendStats()
        self._apply_output()
        if dropped_frames > self._dropped_frames:  # a decoder may start after the gap
            self._encoder.restart()
            self._dropped_frames = dropped_frames
        await self._send_frames(chunk, frames, stats)
        self._report(chunk, stats, num_frames=len(frames), decoded_s=decoded_s)
        self.num_chunks += 1
        self.num_frames += len(frames)
        self.num_bytes += stats.num_bytes
        message = self._describe(chunk, frames, stats, decoding_s=decoding_s)
        self._begun_s = chunk.begun_s
        await self._sender.send(self._protocol.send_stats(message))
        self.decoding_s = decoding_s

    def _report(
        self, chunk: GeneratedChunk, stats: SendStats, *, num_frames: int, decoded_s: float
    ) -> None:
        sent_s = anyio.current_time()
        self._on_sent(
            SentChunk(
                index=chunk.index,
                num_frames=num_frames,
                num_bytes=stats.num_bytes,
                media_s=num_frames / self._request.fps,
                begun_s=chunk.begun_s + chunk.prepared_s,
                denoised_s=chunk.begun_s + chunk.prepared_s + chunk.denoising_s,
                decoded_s=decoded_s,
                encoded_s=stats.encoded_s,
                first_byte_s=sent_s if stats.first_byte_s is None else stats.first_byte_s,
                sent_s=sent_s,
                stall_s=chunk.stall_s,
                dropped_frames=self._dropped_frames,
                event_s=chunk.controls.event_s,
            )
        )

    async def _send_frames(self, chunk: GeneratedChunk, frames: Frames, stats: SendStats) -> None:
        start = 0
        while start < len(frames):
            batches = split_chunk(frames, self._encoder, start=start, position=chunk.position)
            try:
                await self._send_batches(chunk, batches, stats)
                return
            except CodecFailed as failure:
                start = await self._fall_back(failure)

    async def _send_batches(
        self, chunk: GeneratedChunk, batches: list[FrameBatch], stats: SendStats
    ) -> None:
        """Raises CodecFailed for the first batch that cannot be encoded, after those before it."""
        pending = [PendingPayload(batch=batch) for batch in batches]
        num_batches = stats.num_batches + len(batches)
        async with anyio.create_task_group() as tasks:
            num_workers = 1 if self._encoder.is_sequential else int(self._limiter.total_tokens)
            for worker in range(num_workers):
                tasks.start_soon(self._encode, pending[worker::num_workers])
            for one in pending:
                asked_s = anyio.current_time()
                await one.done.wait()
                stats.encoded_s = anyio.current_time()
                stats.build_s += stats.encoded_s - asked_s
                if one.payload is None:
                    tasks.cancel_scope.cancel()
                    break
                await self._send_payload(chunk, one.payload, stats, num_batches=num_batches)
        for one in pending:
            if one.error is not None:
                raise CodecFailed(one.batch.start) from one.error

    async def _send_payload(
        self, chunk: GeneratedChunk, payload: Payload, stats: SendStats, *, num_batches: int
    ) -> None:
        header = build_header(
            payload,
            request_id=self._request_id(chunk),
            chunk_index=chunk.index,
            index=stats.num_batches,
            num_batches=num_batches,
            event_id=chunk.controls.event_id,
        )
        unit = self._protocol.send_batch(
            header,
            payload.layout,
            payload.data,
            controls=chunk.controls,
            world_index=chunk.world_index,
            dropped_frames=self._dropped_frames,
        )
        if stats.first_byte_s is None:
            stats.first_byte_s = anyio.current_time()
        header_s, payload_s = await self._sender.send(unit)
        stats.header_write_s += header_s
        stats.payload_write_s += payload_s
        stats.num_bytes += sum(len(part) for part in unit)
        stats.num_batches += 1
        stats.content_type = payload.content_type

    async def _encode(self, pending: list[PendingPayload]) -> None:
        for one in pending:
            encode = partial(self._encoder.encode, one.batch)
            try:
                if self._encoder.needs_worker:
                    one.payload = await run_in_worker(encode, limiter=self._limiter)
                else:
                    one.payload = encode()
            except Exception as exc:  # codec libraries raise many kinds
                one.error = exc
                return
            finally:
                one.done.set()

    def _apply_output(self) -> None:
        """Follows the client's changes since the last chunk."""
        if self._output.encoding != self._encoding:
            self._open_encoder(self._output.encoding)
        elif self._output.key_frame_wanted:
            self._encoder.restart()
        self._output.key_frame_wanted = False

    def _open_encoder(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._encoder = open_encoder(
            encoding, fps=self._request.fps, extensions=self._request.extensions
        )

    async def _fall_back(self, failure: CodecFailed) -> int:
        """Opens the fallback format for the rest of the chunk. Returns its first frame there."""
        assert self._encoding is not None
        name = self._encoding.format
        if name == FALLBACK_FORMAT:
            raise failure
        logger.error(
            "session %s: %s failed, continuing with %s",
            self._session_id,
            name,
            FALLBACK_FORMAT,
            exc_info=failure.__cause__,
        )
        preview = None if name == "delta-zstd" else self._encoding.preview_max_width
        fallback = replace(self._encoding, format=FALLBACK_FORMAT, preview_max_width=preview)
        if self._output.encoding == self._encoding:  # else the client wants another one next
            self._output.encoding = fallback
        self._open_encoder(fallback)
        text = f"{name} failed; the frames come as {FALLBACK_FORMAT} instead"
        warning = WarningMessage(text, code="codec_failed")
        await self._sender.send(self._protocol.send_notice(warning))
        return failure.start

    def _request_id(self, chunk: GeneratedChunk) -> str:
        return f"{self._session_id}-{chunk.index}"

    def _describe(
        self,
        chunk: GeneratedChunk,
        frames: Frames,
        stats: SendStats,
        *,
        decoding_s: float,
    ) -> ChunkStats:
        # The first chunk, and the first one after a pause: then another may begin.
        total_s = chunk.prepared_s + chunk.denoising_s
        if self._begun_s is not None and self._begun_s >= chunk.resumed_s:
            # From beginning to beginning: under pacing this is regular even if chunks take
            # different times, and a client's playback speed does not follow each of them.
            total_s = chunk.begun_s - self._begun_s
        return ChunkStats(
            session_id=self._session_id,
            request_id=self._request_id(chunk),
            chunk_index=chunk.index,
            event_id=chunk.controls.event_id,
            request_prepare_ms=milliseconds(chunk.prepared_s),
            scheduler_forward_ms=milliseconds(chunk.denoising_s + decoding_s),
            pace_wait_ms=milliseconds(chunk.waited_s),
            header_write_ms=milliseconds(stats.header_write_s),
            raw_payload_build_ms=milliseconds(stats.build_s),
            raw_write_ms=milliseconds(stats.payload_write_s),
            ws_write_ms=milliseconds(stats.header_write_s + stats.payload_write_s),
            chunk_total_ms=milliseconds(total_s),
            num_batches=stats.num_batches,
            num_frames=len(frames),
            raw_bytes=frames.nbytes,
            ws_payload_bytes=stats.num_bytes,
            content_type=stats.content_type,
        )


def milliseconds(seconds: float) -> int:
    """Whole milliseconds, rounded half up: the wire carries no floats."""
    return max(0, math.floor(seconds * 1000 + 0.5))
