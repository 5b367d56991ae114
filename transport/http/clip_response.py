"""A clip as a response: the MP4 is streamed while it is generated.

The world is closed when the client disconnects.

Tested in `tests/transport/http/test_clip.py`.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import anyio
from anyio import CancelScope
from msgspec.structs import replace
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from transport.codecs.mp4 import Mp4Writer
from transport.codecs.payload import Frame
from transport.http.error_response import error_response, status_of
from transport.observer import Client, NoObserver, SentChunk, SessionEnd, SessionObserver
from transport.session_log import log_closed, log_opened
from transport.wire.errors import Refused, TransportError
from transport.wire.messages import Queued, Starting, WarningMessage
from transport.wire.world import SavedWorld, World, WorldSession, WorldSpec
from transport.worker_limits import CapacityLimits, run_in_worker

MEDIA_TYPE = "video/mp4"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class NewWorld:
    """A clip that begins with an image, uint8 [H, W, 3], whose size it has."""

    spec: WorldSpec
    image: Awaitable[Frame]


@dataclass(frozen=True, kw_only=True)
class SavedStart:
    """A clip that begins where a saved world stopped."""

    spec: WorldSpec
    saved: SavedWorld
    prompt: str | None  # a new one, from the first chunk on


class ClipResponse(Response):
    """Generates one world along a list of actions. The world is opened when the response begins."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        world: World,
        start: NewWorld | SavedStart,
        actions: Sequence[str],
        *,
        capacity: CapacityLimits,
        timeout_s: float,
        warnings: Sequence[WarningMessage] = (),
        client: Client = Client(kind="clip"),  # noqa: B008  # frozen
        observer: SessionObserver | None = None,
    ) -> None:
        """Awaits a new world's image, unless the client disconnects before.

        `actions` holds the keys of each latent frame.
        A send that takes longer than `timeout_s` ends the response and frees the world.
        The headers have `warnings`, and then those of the world.
        """
        super().__init__()
        self._timeout_s = timeout_s
        self._world = world
        self._start = start
        self._spec = start.spec
        self._actions = actions
        self._capacity = capacity
        self._warnings = warnings
        self._client = client
        self._observer: SessionObserver = observer or NoObserver()
        self._session_id: str | None = None
        self._begun = False  # the response's first message is sent, or may be
        self._num_chunks = self._num_frames = self._num_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_on_disconnect, receive, tasks.cancel_scope)
            error = await self._stream(send)
            if error is not None:
                await error_response(error)(scope, receive, send)
            tasks.cancel_scope.cancel()

    async def _stream(self, send: Send) -> TransportError | None:
        """Sends the clip. Returns an error that came before the first byte, raises a later one."""
        started_s = anyio.current_time()
        label, code, reason = "client_left", 499, "the client left"  # those of a cancellation
        try:
            await self._generate(send)
            label, code, reason = "done", 200, "done"
        except ClientDisconnect:
            return None
        except Exception as exc:
            error = exc if isinstance(exc, TransportError) else TransportError("internal error")
            label, code, reason = error.code, status_of(error), str(error)
            if error is not exc:
                logger.exception("a clip failed")
            if self._begun:
                raise
            return error
        finally:
            end = SessionEnd(
                session_id=self._session_id,
                label=label,
                code=code,
                reason=reason,
                duration_s=anyio.current_time() - started_s,
                num_chunks=self._num_chunks,
                num_frames=self._num_frames,
                num_bytes=self._num_bytes,
            )
            log_closed(self._client, end)
            self._observer.closed(anyio.current_time(), end)
        return None

    async def _generate(self, send: Send) -> None:
        """Opens the world, sends the clip and frees the world."""
        session = await self._open()
        width, height = self._spec.width, self._spec.height
        self._session_id = session.id
        output = f"a clip of {len(self._actions)} latent frames"
        log_opened(self._client, session.id, width=width, height=height, output=output)
        self._observer.opened(anyio.current_time(), session.id, width=width, height=height)
        try:
            async with aclosing(self._record(session)) as pieces:
                async for data in pieces:
                    if not self._begun:
                        self._begun = True
                        notices = session.take_notices()
                        news = [one for one in notices if isinstance(one, WarningMessage)]
                        warnings = [*self._warnings, *news]
                        await self._write(send, _start(self._spec.seed, warnings))
                    await self._write(send, _body(data))
                    self._num_bytes += len(data)
            await self._write(send, {"type": "http.response.body", "body": b""})
        finally:
            session.close()

    async def _open(self) -> WorldSession:
        match self._start:
            case SavedStart(saved=saved):
                self._observer.asked(anyio.current_time())
                return await self._world.open_snapshot(
                    saved, on_wait=self._note_wait, realtime=False
                )
            case NewWorld(image=pending):
                image = await pending
                height, width = image.shape[:2]
                self._spec = replace(self._spec, width=width, height=height)
                self._observer.asked(anyio.current_time())
                return await self._world.open(self._spec, image, on_wait=self._note_wait)

    async def _write(self, send: Send, message: Message) -> None:
        """Raises Refused for a client that does not read, and ClientDisconnect."""
        with anyio.move_on_after(self._timeout_s) as timeout_scope:
            try:
                await send(message)
            except OSError as exc:  # raised by some servers once the client has left
                raise ClientDisconnect from exc
        if timeout_scope.cancelled_caught:
            raise Refused(f"the client did not read for {self._timeout_s:g} s", code="timeout")

    async def _note_wait(self, status: Queued | Starting) -> None:
        """An HTTP client receives no news of the queue before its response begins."""
        self._observer.waits(status)

    async def _record(self, session: WorldSession) -> AsyncGenerator[bytes, None]:
        """Pieces of the MP4. The actions are padded to whole chunks, and the video is cut back."""
        info, actions = self._world.info, self._actions
        chunk_size = info.chunk_latent_frames
        num_frames = info.chunk_frames // chunk_size * len(actions)
        if session.chunk_index == 0:
            num_frames -= info.chunk_frames - info.first_chunk_frames
        prompt = await self._encode_prompt(session)
        writer = Mp4Writer(
            width=self._spec.width, height=self._spec.height, fps=info.fps, live=True
        )
        for start in range(0, len(actions), chunk_size):
            chunk = list(actions[start : start + chunk_size])
            begun_s = anyio.current_time()
            # A deadline one chunk away: live sessions that are closer to an underrun go first.
            pending = await session.step(
                chunk + [""] * (chunk_size - len(chunk)),
                prompt=None if start else prompt,
                time_to_underrun_s=info.chunk_frames / info.fps,
            )
            denoised_s = anyio.current_time()
            frames = (await pending)[: num_frames - writer.num_frames]
            decoded_s = anyio.current_time()
            await run_in_worker(partial(writer.add, frames), limiter=self._capacity.clip)
            encoded_s = anyio.current_time()
            if data := writer.take():
                yield data
            self._observer.sent(
                SentChunk(
                    index=self._num_chunks,
                    num_frames=len(frames),
                    num_bytes=len(data),
                    media_s=len(frames) / info.fps,
                    begun_s=begun_s,
                    denoised_s=denoised_s,
                    decoded_s=decoded_s,
                    encoded_s=encoded_s,
                    first_byte_s=encoded_s,
                    sent_s=anyio.current_time(),
                )
            )
            self._num_chunks += 1
            self._num_frames += len(frames)
        await run_in_worker(writer.close, limiter=self._capacity.clip)
        yield writer.take()

    async def _encode_prompt(self, session: WorldSession) -> str | None:
        """The new prompt of a saved world, ready for a step."""
        prompt = self._start.prompt if isinstance(self._start, SavedStart) else None
        if prompt is not None and self._world.info.encodes_prompts:
            await session.encode(prompt)
        return prompt


def _start(seed: int, warnings: Sequence[WarningMessage]) -> Message:
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"cache-control", b"no-store"),
        (b"x-seed", str(seed).encode()),
        *((b"x-warning", warning.content.encode("ascii", "replace")) for warning in warnings),
    ]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def _body(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def _cancel_on_disconnect(receive: Receive, scope: CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
