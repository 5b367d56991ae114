"""An address of a server whose connections a test can cut."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from urllib.parse import urlsplit

from tests.transport.client.conftest import Relay


@contextmanager
def make_cuttable(address: str) -> Iterator[SimpleNamespace]:
    """`.http` is another address of the same server, and `.cut()` breaks what is open there.

    `.stop()` refuses connections until `.move(address)` puts another server behind it.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    relay = Relay(urlsplit(address).port)
    asyncio.run_coroutine_threadsafe(relay.start(), loop).result()

    def cut() -> None:
        loop.call_soon_threadsafe(relay.cut)

    def stop() -> None:
        relay.is_open = False
        cut()

    def move(address: str) -> None:
        relay._port = urlsplit(address).port
        relay.is_open = True

    http = f"http://127.0.0.1:{relay.port}"
    yield SimpleNamespace(http=http, cut=cut, stop=stop, move=move)
    asyncio.run_coroutine_threadsafe(relay.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
