"""A clip as an answer: the MP4 leaves while it is made, and the world ends with its client."""

import logging
from collections.abc import AsyncIterator, Sequence
from functools import partial

import anyio
import msgspec
from anyio import CancelScope
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from transport.codecs.mp4 import Mp4Writer
from transport.codecs.payload import Frame
from transport.wire.errors import Busy, TooLarge, TransportError, WorldLost
from transport.wire.messages import Queued, Warming, error_message
from transport.wire.world import World, WorldSession, WorldSpec
from transport.worker_limits import CapacityLimits, run_in_worker

MEDIA_TYPE = "video/mp4"

logger = logging.getLogger(__name__)


class ClipResponse(Response):
    """One world, played along a script and filmed. It is opened when the answer begins."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        world: World,
        spec: WorldSpec,
        image: Frame,
        actions: Sequence[str],
        *,
        capacity: CapacityLimits,
        timeout_s: float,
    ) -> None:
        """A client that takes nothing for `timeout_s` gets no more: a world waits for it."""
        super().__init__()
        self._timeout_s = timeout_s
        self._world = world
        self._spec = spec
        self._image = image
        self._actions = actions
        self._capacity = capacity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_leave_with_the_client, receive, tasks.cancel_scope)
            refused = await self._stream(send)
            if refused is not None:
                await refuse(refused)(scope, receive, send)
            tasks.cancel_scope.cancel()

    async def _stream(self, send: Send) -> TransportError | None:
        """What went wrong before the first byte. Later there is only to break off: it raises."""
        begun, reason = False, "the client left"  # which is told by a cancellation
        name = "none"
        try:
            session = await self._world.open(self._spec, self._image, on_wait=_say_nothing)
            name = session.id
            logger.info("session %s opened: a clip of %d latent frames", name, len(self._actions))
            try:
                async for data in self._record(session):
                    if not begun:
                        begun = True
                        await send(_start())
                    with anyio.fail_after(self._timeout_s):
                        await send({"type": "http.response.body", "body": data, "more_body": True})
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
            logger.info("session %s closed: %s", name, reason)
        return None

    async def _record(self, session: WorldSession) -> AsyncIterator[bytes]:
        """The actions filled up to whole chunks; the video cut to what was asked for."""
        info, actions = self._world.info, self._actions
        size = info.chunk_latent_frames
        num_frames = 1 + info.chunk_frames // size * (len(actions) - 1)
        writer = Mp4Writer(
            width=self._spec.width, height=self._spec.height, fps=info.fps, live=True
        )
        for start in range(0, len(actions), size):
            chunk = list(actions[start : start + size])
            # Who watches while he walks is served first, for as long as a chunk lasts.
            frames = await session.step(
                chunk + [""] * (size - len(chunk)),
                prompt=None,
                time_to_underrun_s=info.chunk_frames / info.fps,
            )
            wanted = (await frames)[: num_frames - writer.num_frames]
            await run_in_worker(partial(writer.add, wanted), limiter=self._capacity.clip)
            if data := writer.take():
                yield data
        await run_in_worker(writer.close, limiter=self._capacity.clip)
        yield writer.take()


def refuse(error: TransportError) -> Response:
    """The answer of a request that comes to nothing."""
    match error:
        case TooLarge():
            status = 413
        case Busy() | WorldLost():
            status = 503
        case _:
            status = 500 if error.code == "internal" else 400
    message = error_message(error)
    body = {"code": message.code, "content": message.content, "field": message.field}
    return Response(
        msgspec.json.encode({"error": body}), status_code=status, media_type="application/json"
    )


def _start() -> Message:
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"cache-control", b"no-store")]
    return {"type": "http.response.start", "status": 200, "headers": headers}


async def _leave_with_the_client(receive: Receive, scope: CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _say_nothing(message: Queued | Warming) -> None:
    """An HTTP client learns nothing before its answer begins."""
