"""ASGI middleware between the application and Serve, which pickles each message for its proxy."""

import asyncio
import sys
from collections.abc import Awaitable, Callable

from ray.exceptions import RayError
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SWITCH_INTERVAL_S = 0.0005  # how long a thread keeps the GIL from the event loop; Python's is 5 ms
LARGE_BYTES = 2**20
PAUSE_S = 0.002


def add_serve_middleware(app: Starlette) -> Starlette:
    """Adapt the application to Serve. Also shortens this process's thread switch interval."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    app.add_middleware(CopyViews)
    app.add_middleware(ReceiveDisconnects)
    return app


class ReceiveDisconnects:
    """Turns a receive that fails into the disconnect that it stands for.

    When a client leaves, Serve cancels the calls of its request. One of them may be the call that
    fetches the disconnect from the proxy. A proxy that dies takes its sockets with it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_disconnect() -> Message:
            try:
                return await receive()
            except RayError:  # of the call: it was cancelled, or the proxy has died
                return {"type": f"{scope['type']}.disconnect"}

        await self._app(scope, receive_disconnect, send)


class CopyViews:
    """Copies memoryviews to bytes: views of arrays in the object store cannot be pickled.

    It pauses after a large message. Serve pickles all waiting messages at once and holds the GIL
    meanwhile.
    """

    def __init__(
        self, app: ASGIApp, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._app = app
        self._sleep = sleep

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def copy_and_send(message: Message) -> None:
            data = message.get("bytes")
            if isinstance(data, memoryview):
                message["bytes"] = bytes(data)
            await send(message)
            if data is not None and len(data) >= LARGE_BYTES:
                await self._sleep(PAUSE_S)

        await self._app(scope, receive, copy_and_send)
