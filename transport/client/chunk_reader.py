"""Reads one socket: puts the batches of a chunk together, and decodes them.

Tested in `tests/transport/client/test_client.py`.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct, msgpack
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

from transport.codecs.decoder import Decoder
from transport.codecs.payload import Frames
from transport.wire.errors import TransportError
from transport.wire.messages import (
    AppliedControls,
    ChunkStats,
    FrameBatchHeader,
    HeaderExtras,
    ServerMessage,
)


class Chunk(Struct, frozen=True, kw_only=True):
    """A whole chunk as it was received."""

    index: int  # counts the chunks of this socket
    world_index: int  # in its world, which rewinding turns back
    frames: Frames
    event_id: int | None  # the newest event that this chunk follows
    applied: AppliedControls
    flushes_older: bool  # frames of older chunks that are not shown yet may be skipped
    dropped_frames: int  # frames that the server has dropped since the session opened
    content_type: str
    stats: ChunkStats


class ConnectionLost(TransportError):
    """The socket was closed by none of its ends, or by a server that goes away."""


class ChunkReader:
    """The messages of one socket, in order."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._decoder = Decoder()
        self._batches: list[Frames] = []
        self._header: FrameBatchHeader | None = None
        self._extras: HeaderExtras | None = None

    async def read(self) -> Chunk | ServerMessage | None:
        """The next whole chunk or other message; None after a normal close.

        Raises ConnectionLost, and TransportError for a message of another protocol.
        """
        while (data := await self._receive()) is not None:
            with other_protocol():
                fields = msgpack.decode(data, type=dict[str, Any])
                if fields["type"] not in ("frame_batch", "frame_batch_header"):
                    message: ServerMessage = msgspec.convert(fields, ServerMessage)
                    return self._finish(message)
                self._begin_batch(fields)
            self._batches.append(await self._receive_frames(fields))
        return None

    def _begin_batch(self, fields: dict[str, Any]) -> None:
        header = msgspec.convert(fields | {"type": "frame_batch_header"}, FrameBatchHeader)
        if header.frame_batch_index == 0 or self._extras is None:
            self._extras = msgspec.convert(fields, HeaderExtras)
        self._header = header

    def _finish(self, message: ServerMessage) -> Chunk | ServerMessage:
        """The chunk that these statistics end, or the message."""
        header, extras = self._header, self._extras
        if not isinstance(message, ChunkStats) or header is None or extras is None:
            return message
        batches, self._batches = self._batches, []
        return _build_chunk(header, extras, batches, message)

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
            raise ConnectionLost(
                reason or f"the connection broke, code {code}", close_code=code
            ) from exc


@contextmanager
def other_protocol() -> Iterator[None]:
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
        world_index=extras.world_chunk_index,
        frames=np.concatenate(batches),
        event_id=header.event_id,
        applied=extras.applied_controls,
        flushes_older=extras.cut_over,
        dropped_frames=extras.dropped_frames,
        content_type=header.content_type,
        stats=stats,
    )
