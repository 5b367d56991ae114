"""Opens a world for a program.

Tested in `tests/transport/client/test_client.py`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from transport.client.client import Client
from transport.client.dial import Dialer
from transport.client.news import OnNews
from transport.paths import SOCKET_PATH

DEFAULT_URL = f"ws://127.0.0.1:8000{SOCKET_PATH}"


@asynccontextmanager
async def connect(
    url: str = DEFAULT_URL,
    *,
    token: str | None = None,
    on_news: OnNews | None = None,
    reconnect: bool = True,
    **init: Any,
) -> AsyncIterator[Client]:
    """Opens a world. `init` holds fields of the wire's init; None means the default.

    `token` is the bearer token, for a server that asks for one.
    A lost socket is replaced, and its world goes on, within the time that the server keeps it.
    Without `reconnect` it raises TransportError.
    Iterate `wait()` to follow the queue, or `chunks()` at once.
    """
    fields = {name: value for name, value in init.items() if value is not None}
    dialer = Dialer(url, token=token)
    client = Client(dialer, init=fields, on_news=on_news, reconnect=reconnect)
    try:
        await client.begin(await dialer.dial(), fields)
        running = asyncio.create_task(client.run())
        try:
            yield client
        finally:
            running.cancel()
            await asyncio.wait([running])
    finally:
        await dialer.close()
