"""A Python client. `python -m transport.client --actions "w-6,l-4,none-2" --out walk.mp4`."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
from msgspec import Struct, msgpack
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, WebSocketException

from transport.codecs.decoder import Decoder
from transport.codecs.mp4 import Mp4Writer
from transport.codecs.payload import Frames
from transport.wire.controls import parse_actions
from transport.wire.errors import TransportError
from transport.wire.messages import (
    AppliedControls,
    ChunkStats,
    ControlAck,
    Error,
    Format,
    FrameBatchHeader,
    HeaderExtras,
    Queued,
    ServerMessage,
    SessionOpened,
    Warming,
    WarningMessage,
)

DEFAULT_URL = "ws://127.0.0.1:8000/v1/realtime_video/generate"


class Chunk(Struct, frozen=True):
    """One whole chunk, as it was shown and as it was made."""

    index: int
    frames: Frames
    event_id: int | None
    applied: AppliedControls
    cut_over: bool  # what was not shown yet of older chunks need not be any more
    dropped_frames: int  # of the session so far
    content_type: str
    stats: ChunkStats


class Client:
    """One open world. Made by `connect`."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._next_event_id = 1
        self.session: SessionOpened | None = None
        self.acked_events: list[int] = []  # events that the server has accepted
        self.warnings: list[WarningMessage] = []
        self._decoder = Decoder()

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Chunk after chunk until the server is done. Raises TransportError with its reason."""
        pieces: list[Frames] = []
        header = extras = None
        while (data := await self._receive()) is not None:
            fields: dict[str, Any] = msgpack.decode(data)
            if fields["type"] in ("frame_batch", "frame_batch_header"):
                header = msgspec.convert(fields | {"type": "frame_batch_header"}, FrameBatchHeader)
                if header.frame_batch_index == 0 or extras is None:
                    extras = msgspec.convert(fields, HeaderExtras)
                payload = fields.get("payload") or await self._receive()
                assert isinstance(payload, bytes)
                pieces.append(await asyncio.to_thread(self._decoder.decode, fields, payload))
                if header.is_final_frame_batch:
                    await self._send({"type": "ack", "chunk_index": header.chunk_index})
                continue
            message = msgspec.convert(fields, ServerMessage)
            self._note(message)
            if isinstance(message, ChunkStats) and header is not None and extras is not None:
                if len({piece.shape[1:] for piece in pieces}) > 1:
                    raise TransportError("the size of the frames changed within a chunk")
                yield Chunk(
                    index=header.chunk_index,
                    frames=np.concatenate(pieces),
                    event_id=header.event_id,
                    applied=extras.applied_controls,
                    cut_over=extras.cut_over,
                    dropped_frames=extras.dropped_frames,
                    content_type=header.content_type,
                    stats=message,
                )
                pieces, header, extras = [], None, None

    async def send_actions(self, script: Sequence[Sequence[str]]) -> int:
        """Plays one list of keys a latent frame. Returns the event's id."""
        return await self._event("camera_actions", [list(keys) for keys in script])

    async def hold(self, *states: str) -> int:
        """Holds the keys in "wl", say, from now on; several are a history, and the last stays."""
        transitions = [{"actions": list(keys)} for keys in states]
        return await self._event("camera_actions", {"mode": "state", "transitions": transitions})

    async def prompt(self, text: str) -> int:
        """Changes the prompt from the next chunk on."""
        return await self._event("prompt", text)

    async def wait(self) -> AsyncIterator[Queued | Warming]:
        """News until the world is open; then `session` is set. Raises TransportError."""
        while self.session is None:
            data = await self._receive()
            if data is None:
                raise TransportError("the server closed the socket before the world was open")
            message = msgpack.decode(data, type=ServerMessage)
            self._note(message)
            if isinstance(message, Queued | Warming):
                yield message

    async def change_output(self, **fields: Any) -> int:
        """Changes codec, quality or preview width from a next chunk on: fields of `init`."""
        return await self._event("output", fields)

    async def request_key_frame(self) -> int:
        """Asks that the next frame of H.264 be decodable without those before it."""
        return await self._event("key_frame", None)

    async def _event(self, kind: str, payload: Any) -> int:
        event_id = self._next_event_id
        self._next_event_id += 1
        await self._send({"type": "event", "kind": kind, "event_id": event_id, "payload": payload})
        return event_id

    async def _send(self, message: dict[str, Any]) -> None:
        with suppress(ConnectionClosed):  # the reason comes with the next receive
            await self._socket.send(msgpack.encode(message))

    async def _receive(self) -> bytes | None:
        """The next binary frame; None once the server is done."""
        try:
            return await self._socket.recv(decode=False)
        except ConnectionClosedOK:
            return None
        except ConnectionClosed as exc:
            code, reason = (exc.rcvd.code, exc.rcvd.reason) if exc.rcvd else (1006, "")
            raise TransportError(
                reason or f"the connection broke, code {code}", close_code=code
            ) from exc

    def _note(self, message: ServerMessage) -> None:
        match message:
            case Error():
                raise TransportError(message.content, code=message.code, field=message.field)
            case SessionOpened():
                self.session = message
            case ControlAck():
                self.acked_events.append(message.event_id)
            case WarningMessage():
                self.warnings.append(message)


@asynccontextmanager
async def connect(url: str = DEFAULT_URL, **init: Any) -> AsyncIterator[Client]:
    """Opens a world; `init` holds fields of the wire's init, None for its defaults.

    Iterate `wait()` first to follow a queue, or go straight to `chunks()`.
    """
    # Frames do not deflate well enough to be worth the time. The queue is bounded by acks; a full
    # one would keep the server's answer to a close from being read.
    async with open_socket(url, compression=None, max_size=None, max_queue=None) as socket:
        fields = {name: value for name, value in init.items() if value is not None}
        await socket.send(msgpack.encode({"type": "init", "extensions": True} | fields))
        yield Client(socket)


async def record(
    url: str, *, actions: Sequence[str], out: Path, init: dict[str, Any]
) -> tuple[int, int]:
    """Walks `actions` (one a latent frame) and writes an MP4; returns (frames, frames a second)."""
    script = [list(action) for action in actions]
    async with connect(
        url, realtime_output_pacing=False, condition_inputs={"camera_actions": script}, **init
    ) as client:
        async for news in client.wait():
            what = "warming up" if isinstance(news, Warming) else f"busy, place {news.position}"
            print(f"the world is {what}", file=sys.stderr)
        session = client.session
        assert session is not None
        stride = session.chunk_frames // session.chunk_latent_frames
        num_frames = 1 + stride * (len(actions) - 1)
        writer = None
        async for chunk in client.chunks():
            if writer is None:  # the size that is sent, which is that of the pictures
                _, height, width, _ = chunk.frames.shape
                writer = Mp4Writer(width=width, height=height, fps=session.fps)
            wanted = chunk.frames[: num_frames - writer.num_frames]
            await asyncio.to_thread(writer.add, wanted)
            if writer.num_frames == num_frames:
                break
    if writer is None or writer.num_frames < num_frames:
        raise TransportError("the server ended the walk early")
    await asyncio.to_thread(writer.close)
    out.write_bytes(writer.take())
    return num_frames, session.fps


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 1 with one line on stderr."""
    options = _parser().parse_args(argv)
    if not options.out.parent.is_dir():
        return _fail(f"{options.out.parent} is no directory")
    try:
        init = {
            "prompt": options.prompt,
            "seed": options.seed,
            "size": options.size,
            "realtime_output_format": options.format,
            "first_frame": options.image.read_bytes() if options.image else None,
        }
        actions = parse_actions(options.actions)
        walk = record(options.url, actions=actions, out=options.out, init=init)
        num_frames, fps = asyncio.run(walk)
    except TransportError as exc:
        return _fail(str(exc))
    except WebSocketException as exc:
        return _fail(f"{options.url} is no world: {exc}")
    except TimeoutError:
        return _fail(f"{options.url} does not answer")
    except OSError as exc:
        what = exc.filename or f"cannot reach {options.url}"
        return _fail(f"{what}: {exc.strerror or exc}")
    print(f"{options.out}: {num_frames} frames, {num_frames / fps:.2f} s at {fps} frames/s")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m transport.client", description="Records a walk."
    )
    parser.add_argument("--url", default=DEFAULT_URL)
    parser.add_argument("--actions", default="w-6,l-4,none-2", help="KEYS-COUNT in latent frames")
    parser.add_argument("--out", type=Path, default=Path("walk.mp4"))
    parser.add_argument("--prompt")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--image", type=Path, help="a picture to start from")
    parser.add_argument("--size", help="WIDTHxHEIGHT, a wish")
    parser.add_argument("--format", choices=get_args(Format), default="raw")
    return parser


def _fail(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
