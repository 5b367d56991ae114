"""The hook that runs inside Serve's HTTP proxies: WebSockets without permessage-deflate.

Deflating frames takes tens of milliseconds a message and saves next to nothing. Serve has no option
to turn it off. It has a hook: before a proxy starts its server, it calls the function that
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names. `deployments.serve` sets that variable.

`tests/deployments/test_sockets.py` tests it in a server.
"""

import logging
from contextlib import suppress
from functools import partialmethod

import uvicorn
from starlette.middleware import Middleware
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from transport.wire.limits import MAX_MESSAGE_BYTES

HOOK = "deployments.proxy:configure_sockets"
# A client without a pong is gone, or reads so slowly that frames pile up on the way to it.
PING_INTERVAL_S = 5.0
PING_TIMEOUT_S = 20.0
CLOSE_GRACE_S = 5.0  # for a client to read the rest of its data, the close frame last

logger = logging.getLogger("ray.serve")  # a proxy shows the lines of this logger only


class SocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol, which also logs the negotiated extensions and aborts deaf clients.

    A transport that is closed first sends its whole buffer. A client that reads nothing would keep
    the transport and its session open.

    A message to a client that has left is dropped, as uvicorn does for HTTP. An exception would
    make Serve's proxy abandon its generator of messages, and log two tracebacks.
    """

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        extensions = self.response.headers.get("Sec-WebSocket-Extensions", "none")
        logger.info("WebSocket opened, extensions: %s", extensions)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._abort_later()

    async def send(self, message: ASGISendEvent) -> None:
        await self.writable.wait()
        if self.close_sent:  # after a missing pong
            return
        with suppress(ClientDisconnected):
            await super().send(message)
        if message["type"] == "websocket.close":
            self._abort_later()

    def _abort_later(self) -> None:
        self.loop.call_later(CLOSE_GRACE_S, self.transport.abort)


def configure_sockets() -> list[Middleware]:
    """Change the defaults of the server that this process is about to start.

    Returns no middleware; Serve expects a list of them from its hook.
    """
    uvicorn.Config.__init__ = partialmethod(  # type: ignore[method-assign,assignment]
        uvicorn.Config.__init__,
        ws=SocketProtocol,
        ws_per_message_deflate=False,
        ws_ping_interval=PING_INTERVAL_S,
        ws_ping_timeout=PING_TIMEOUT_S,
        ws_max_size=MAX_MESSAGE_BYTES,
    )
    logger.info("WebSockets without permessage-deflate, a ping every %g s", PING_INTERVAL_S)
    return []
