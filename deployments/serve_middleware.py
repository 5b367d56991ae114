"""From the application to Serve, which pickles what is sent on its way to the proxy."""

import asyncio
import sys

from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SWITCH_S = 0.0005  # for which a thread keeps the GIL while the event loop wants it; Python's: 5 ms
LARGE_BYTES = 2**20
REST_S = 0.002


def add_serve_middleware(app: Starlette) -> Starlette:
    """The application, as Serve can take it. Once a process, whose threads it tunes."""
    sys.setswitchinterval(SWITCH_S)
    app.add_middleware(CopyViews)
    return app


class CopyViews:
    """Makes bytes of views, which are of arrays in the object store and cannot be pickled.

    After a large message there is a rest: Serve pickles all that waits in one go, and holds the GIL
    meanwhile.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def pass_on(message: Message) -> None:
            data = message.get("bytes")
            if isinstance(data, memoryview):
                message["bytes"] = bytes(data)
            await send(message)
            if data is not None and len(data) >= LARGE_BYTES:
                await asyncio.sleep(REST_S)

        await self._app(scope, receive, pass_on)
