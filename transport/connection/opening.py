"""How a connection comes to its world: inits, their images and snapshots, and the line."""

from collections.abc import Awaitable, Callable
from functools import partial

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from transport.codecs.image import decode_image
from transport.codecs.payload import Frame
from transport.connection.close import HandedOver
from transport.connection.sender import MessageSender
from transport.image_fetcher import ImageFetcher
from transport.observer import SessionObserver
from transport.wire.errors import Refused, TransportError
from transport.wire.init import FromFork, FromSession, FromSnapshot, SessionRequest
from transport.wire.limits import ClientLimits
from transport.wire.messages import Queued, Starting
from transport.wire.protocol import ServerProtocol
from transport.wire.world import SavedWorld, World, WorldSession
from transport.worker_limits import CapacityLimits, run_in_worker

# SGLang-Diffusion's, and its text: a client without extensions hears nothing while it waits.
PLAIN_QUEUE_TIMEOUT_S = 1.0
PLAIN_QUEUE_ERROR = "another realtime session is already active"


class WorldOpener:
    """Reads the inits of one socket until the world of one is open."""

    def __init__(
        self,
        world: World,
        requests: MemoryObjectReceiveStream[SessionRequest],
        *,
        protocol: ServerProtocol,
        sender: MessageSender,
        limits: ClientLimits,
        capacity: CapacityLimits,
        fetcher: ImageFetcher,
        observer: SessionObserver,
        reject: Callable[[TransportError], Awaitable[None]],
        handed_over: Callable[[], str | None],
        wants_status: Callable[[], bool],
    ) -> None:
        """`reject` answers an init that failed. `handed_over` has a reason to open no world.

        A world may wait for a place after it has been opened, too. `wants_status` is False while
        its client is away.
        """
        self._world = world
        self._requests = requests
        self._protocol = protocol
        self._sender = sender
        self._limits = limits
        self._capacity = capacity
        self._fetcher = fetcher
        self._observer = observer
        self._reject = reject
        self._handed_over = handed_over
        self._wants_status = wants_status
        self._queued_since_s = 0.0
        self._is_open = False

    async def open(self) -> tuple[SessionRequest, WorldSession]:
        """The request comes back without its image or snapshot."""
        remaining_s = self._limits.init_timeout_s  # the wait for a world does not count
        while True:
            started_s = anyio.current_time()
            source = await self._negotiate(timeout_s=remaining_s)
            self._queued_since_s = anyio.current_time()
            remaining_s -= self._queued_since_s - started_s
            self._observer.asked(self._queued_since_s)
            try:
                self._check_handed_over()
                session = await self._open(source)
            except TransportError as error:
                if error.close_code is not None:
                    raise
                await self._reject(error)
            else:
                assert self._protocol.request is not None
                self._is_open = True
                return self._protocol.request, session

    async def _negotiate(self, *, timeout_s: float) -> Frame | SavedWorld | FromSession:
        """Reads inits until one is valid. Returns from what its world is opened."""
        with anyio.move_on_after(timeout_s):
            while True:
                request = await self._requests.receive()
                try:
                    return await self._read_source(request)
                except TransportError as error:
                    if error.close_code is not None:
                        raise
                    await self._reject(error)
        raise Refused(
            f"no valid init within {self._limits.init_timeout_s:g} s",
            code="timeout",
            close_code=1008,
        )

    async def _read_source(self, request: SessionRequest) -> Frame | SavedWorld | FromSession:
        match request.source:
            case FromSession():
                return request.source
            case FromSnapshot(data):
                read = partial(self._world.read_snapshot, data)
                saved = await run_in_worker(read, limiter=self._capacity.decode_image)
            case FromFork(token):
                saved = await self._world.read_fork(token)
            case None:
                image = await self._decode_image(request)
                height, width = image.shape[:2]
                self._protocol.accept_image(width=width, height=height)
                return image
        self._protocol.accept_saved(saved)
        return saved

    async def _open(self, source: Frame | SavedWorld | FromSession) -> WorldSession:
        request = self._protocol.request
        assert request is not None
        spec, on_wait = request.world, self._send_queue_status
        match source:
            case FromSession(token):
                resuming = self._world.resume(token, on_wait=on_wait, realtime=spec.realtime)
                session, saved = await resuming
                self._protocol.accept_saved(saved)
                return session
            case SavedWorld():
                return await self._world.open_snapshot(
                    source,
                    on_wait=on_wait,
                    realtime=spec.realtime,
                    resumable=spec.resumable,
                )
        return await self._world.open(spec, source, on_wait=on_wait)

    async def _send_queue_status(self, status: Queued | Starting) -> None:
        """Raises Refused for a client that would wait in silence for a world of others."""
        if self._is_open:  # its world moves, or waits for its memory
            if self._wants_status():
                await self._sender.send(self._protocol.send_notice(status))
            return
        now_s = anyio.current_time()
        self._check_handed_over()
        if not self._wants_status():
            return
        self._observer.waits(status)
        assert self._protocol.request is not None
        if isinstance(status, Starting) or self._protocol.request.extensions:
            self._queued_since_s = now_s
        elif status.all_taken and now_s - self._queued_since_s >= PLAIN_QUEUE_TIMEOUT_S:
            raise Refused(PLAIN_QUEUE_ERROR, code="busy", close_code=1008)
        await self._sender.send(self._protocol.send_notice(status))

    def _check_handed_over(self) -> None:
        """Raises HandedOver if another process must open the world."""
        if (reason := self._handed_over()) is not None:
            raise HandedOver(reason)

    async def _decode_image(self, request: SessionRequest) -> Frame:
        source = request.first_frame
        if source is None:
            source = self._world.info.openings[0].image
        source = await self._fetcher.fetch(source, field="first_frame")
        decode = partial(decode_image, source, sizes=request.sizes)
        return await run_in_worker(decode, limiter=self._capacity.decode_image)
