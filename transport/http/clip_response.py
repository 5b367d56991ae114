"""A clip as a response: the MP4 is streamed while it is generated.

The world is closed when the client disconnects.

Tested in `tests/transport/http/test_clip.py`.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from functools import partial

import anyio
import msgspec
from anyio import CancelScope
from msgspec import Struct
from msgspec.structs import replace
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from transport.codecs.mp4 import Mp4Writer
from transport.codecs.payload import Frame
from transport.wire.errors import Busy, ErrorCode, TooLarge, TransportError, WorldLost
from transport.wire.messages import Queued, Starting, WarningMessage
from transport.wire.world import World, WorldSession, WorldSpec
from transport.worker_limits import CapacityLimits, run_in_worker

MEDIA_TYPE = "video/mp4"

logger = logging.getLogger(__name__)


class Reason(Struct, frozen=True):
    code: ErrorCode
    content: str
    field: str | None


class Failure(Struct, frozen=True):
    """Why there is no clip."""

    error: Reason


class ClipResponse(Response):
    """Generates one world along a list of actions. The world is opened when the response begins."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        world: World,
        spec: WorldSpec,
        image: Awaitable[Frame],
        actions: Sequence[str],
        *,
        capacity: CapacityLimits,
        timeout_s: float,
        warnings: Sequence[WarningMessage] = (),
    ) -> None:
        """Awaits `image`, uint8 [H, W, 3], unless the client disconnects before.

        The clip has the size of the image.

        `actions` holds the keys of each latent frame.
        A send that takes longer than `timeout_s` ends the response and frees the world.
        The headers have `warnings`, and then those of the world.
        """
        super().__init__()
        self._timeout_s = timeout_s
        self._world = world
        self._spec = spec
        self._image = image
        self._actions = actions
        self._capacity = capacity
        self._warnings = warnings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_on_disconnect, receive, tasks.cancel_scope)
            error = await self._stream(send)
            if error is not None:
                await error_response(error)(scope, receive, send)
            tasks.cancel_scope.cancel()

    async def _stream(self, send: Send) -> TransportError | None:
        """Sends the clip. Returns an error that came before the first byte, raises a later one."""
        begun, reason = False, "the client left"  # the reason of a cancellation
        session_id = "none"
        try:
            image = await self._image
            height, width = image.shape[:2]
            self._spec = replace(self._spec, width=width, height=height)
            session = await self._world.open(self._spec, image, on_wait=_ignore)
            session_id = session.id
            num_latent_frames = len(self._actions)
            logger.info(
                "session %s opened: a clip of %d latent frames", session_id, num_latent_frames
            )
            try:
                async with aclosing(self._record(session)) as pieces:
                    async for data in pieces:
                        if not begun:
                            begun = True
                            warnings = [*self._warnings, *session.take_warnings()]
                            await send(_start(self._spec.seed, warnings))
                        with anyio.fail_after(self._timeout_s):
                            await send(_body(data))
                await send({"type": "http.response.body", "body": b""})
                reason = "done"
            finally:
                session.close()
        except Exception as exc:
            error = exc if isinstance(exc, TransportError) else TransportError("internal error")
            reason = str(error)
            if error is not exc:
                logger.exception("a clip failed")
            if begun:
                raise
            return error
        finally:
            logger.info("session %s closed: %s", session_id, reason)
        return None

    async def _record(self, session: WorldSession) -> AsyncGenerator[bytes, None]:
        """Pieces of the MP4. The actions are padded to whole chunks, and the video is cut back."""
        info, actions = self._world.info, self._actions
        chunk_size = info.chunk_latent_frames
        num_frames = 1 + info.chunk_frames // chunk_size * (len(actions) - 1)
        writer = Mp4Writer(
            width=self._spec.width, height=self._spec.height, fps=info.fps, live=True
        )
        for start in range(0, len(actions), chunk_size):
            chunk = list(actions[start : start + chunk_size])
            # A deadline one chunk away: live sessions that are closer to an underrun go first.
            pending = await session.step(
                chunk + [""] * (chunk_size - len(chunk)),
                prompt=None,
                time_to_underrun_s=info.chunk_frames / info.fps,
            )
            frames = (await pending)[: num_frames - writer.num_frames]
            await run_in_worker(partial(writer.add, frames), limiter=self._capacity.clip)
            if data := writer.take():
                yield data
        await run_in_worker(writer.close, limiter=self._capacity.clip)
        yield writer.take()


def error_response(error: TransportError) -> Response:
    """The error as JSON, with the HTTP status of its kind."""
    match error:
        case TooLarge():
            status = 413
        case Busy() | WorldLost():
            status = 503
        case _ if error.code == "timeout":
            status = 408
        case _:
            status = 500 if error.code == "internal" else 400
    body = Failure(Reason(error.code, str(error), error.field))
    later = error.retry_after_s
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        headers=None if later is None else {"retry-after": str(later)},
        media_type="application/json",
    )


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


async def _ignore(message: Queued | Starting) -> None:
    """An HTTP client receives no news of the queue before its response begins."""
