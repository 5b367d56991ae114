"""An event loop in a thread of its own: sockets answer pings while a program computes."""

import asyncio
import threading
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


class EventLoop:
    """Runs coroutines for a caller that blocks."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon, so that a program may end without `close`.
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result, or what it raises. Ctrl-C cancels it."""
        if self._loop.is_closed():
            coroutine.close()
            raise RuntimeError("the environment is closed")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def run_all(self, coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
        """Their results. Once all have ended, it raises what the first that failed has raised."""
        return self.run(_gather(list(coroutines)))

    def close(self, last: Iterable[Coroutine[Any, Any, None]] = ()) -> None:
        """Runs the `last` ones and ends the thread. It may be called twice."""
        if self._loop.is_closed():
            for coroutine in last:
                coroutine.close()
            return
        try:
            self.run_all(last)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _gather(coroutines: list[Coroutine[Any, Any, T]]) -> list[T]:
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
