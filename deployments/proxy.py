"""What runs inside Serve's HTTP proxies: sockets without permessage-deflate.

Deflating frames takes tens of milliseconds a message and saves next to nothing. Serve has no option
for it, but a hook: it calls what RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names before a proxy
starts its server, so that variable must be set wherever Ray is started.
"""

import logging
from functools import partialmethod

import uvicorn
from starlette.middleware import Middleware
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

HOOK = "deployments.proxy:configure_sockets"
# A client that answers no ping is gone, or reads so slowly that frames pile up on the way to it.
PING_EVERY_S = 5.0
PING_TIMEOUT_S = 20.0
CLOSE_GRACE_S = 5.0  # that a client has to read what is left for it, the close frame last

logger = logging.getLogger("ray.serve")  # whose lines a proxy shows


class Socket(WebSocketsSansIOProtocol):
    """uvicorn's own, but it says what was negotiated, and lets go of who does not read.

    A transport that is closed first sends what is left in its buffer: a client that reads nothing
    would keep it, and its session, for ever.
    """

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        extensions = self.response.headers.get("Sec-WebSocket-Extensions", "none")
        logger.info("a socket opens, with extensions: %s", extensions)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._let_go()

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.close":
            self._let_go()

    def _let_go(self) -> None:
        self.loop.call_later(CLOSE_GRACE_S, self.transport.abort)


def configure_sockets() -> list[Middleware]:
    """Changes the defaults of the server that this process is about to start."""
    uvicorn.Config.__init__ = partialmethod(  # type: ignore[method-assign,assignment]
        uvicorn.Config.__init__,
        ws=Socket,
        ws_per_message_deflate=False,
        ws_ping_interval=PING_EVERY_S,
        ws_ping_timeout=PING_TIMEOUT_S,
    )
    logger.info("sockets do without permessage-deflate, and are pinged every %g s", PING_EVERY_S)
    return []  # of middlewares, which is what Serve asks the hook for
