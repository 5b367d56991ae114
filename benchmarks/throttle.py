"""A proxy on loopback that is a slow line: a token bucket and a delay for each direction."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

READ_BYTES = 1460  # of a packet: the line interleaves its connections packet by packet


@dataclass(slots=True, kw_only=True)
class Bucket:
    """When the next bytes may leave. It holds one packet, so nothing goes faster than the rate."""

    bytes_per_s: float
    free_s: float = 0.0  # when the line has sent all that it was given

    def take(self, now_s: float, num_bytes: int) -> float:
        """The seconds until these bytes have left."""
        self.free_s = max(now_s, self.free_s) + num_bytes / self.bytes_per_s
        return self.free_s - now_s


class SlowLine:
    """All connections to a port share the line. Its rate may be changed at any time."""

    def __init__(self, port: int, *, megabits_per_s: float, delay_s: float) -> None:
        """`delay_s` is for each direction: a round trip takes twice as long."""
        self._port = port
        self._delay_s = delay_s
        rate = megabits_per_s * 1e6 / 8
        self.down, self.up = Bucket(bytes_per_s=rate), Bucket(bytes_per_s=rate)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Returns the port of the line."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        # `stop` cancels it, and Python 3.11 logs a cancelled handler as an error.
        with suppress(asyncio.CancelledError):
            await asyncio.gather(
                self._carry(reader, far_writer, self.up), self._carry(far_reader, writer, self.down)
            )

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bucket: Bucket
    ) -> None:
        loop = asyncio.get_running_loop()
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivery = asyncio.create_task(_deliver(on_the_way, writer))
        try:
            while data := await reader.read(READ_BYTES):
                await asyncio.sleep(bucket.take(loop.time(), len(data)))
                on_the_way.put_nowait((loop.time() + self._delay_s, data))
            on_the_way.put_nowait((loop.time() + self._delay_s, b""))
            await delivery
        except OSError:
            pass  # the sender has aborted its connection
        finally:
            delivery.cancel()
            writer.close()


async def _deliver(
    on_the_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
) -> None:
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while True:
            due_s, data = await on_the_way.get()
            await asyncio.sleep(due_s - loop.time())
            if not data:
                return
            writer.write(data)
            await writer.drain()


@contextmanager
def slow_line(
    port: int, *, megabits_per_s: float, delay_s: float = 0.1
) -> Iterator[tuple[str, SlowLine]]:
    """The address of a slow line to a port of loopback, and the line. It runs in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    line = SlowLine(port, megabits_per_s=megabits_per_s, delay_s=delay_s)
    try:
        own_port = asyncio.run_coroutine_threadsafe(line.start(), loop).result()
        yield f"http://127.0.0.1:{own_port}", line
        asyncio.run_coroutine_threadsafe(line.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
