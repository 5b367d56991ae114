"""Rude clients beside one honest walker, for hours: `python -m benchmarks.rude_clients`.

A rude client starts every `--every` seconds, at most MAX_AT_ONCE at the same time. Each kind comes
once in a round, in random order with a fixed seed. The walker walks all the time. Every minute, a
sample counts the memory and descriptors of each process, object-store bytes, leased sessions and
tracebacks in the log. The last sample comes after the clients have left.

Prints tables by process and by kind of client, then one JSON line with all samples.
"""

import argparse
import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from msgspec import msgpack
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed

from benchmarks.faults import INIT, Walk, walk
from benchmarks.local_server import LocalServer, local_server, one_group
from benchmarks.percentiles import percentiles
from benchmarks.printing import print_json, print_table
from benchmarks.server_sample import Sample, take_sample, to_json, to_row
from transport.paths import CLIPS_PATH, SOCKET_PATH
from transport.wire.limits import ClientLimits

MAX_AT_ONCE = 6
MIN_SAMPLES = 5
EARLY_MINUTE = 5.0  # until then, memory grows because caches fill up
FREEZE_S = 25.0  # longer than the server waits for a pong
CLIENT_TIMEOUT_S = 60.0
SETTLE_S = 60.0  # the most until the last sessions have ended, and Ray's metrics show it
SETTLE_EVERY_S = 3.0
# A rude client needs a place beside the walker, at any speed. The worlds of lost sockets end soon.
ARGS: dict[str, Any] = {"group": {"pace": "shared", "max_sessions": 4}, "resume_grace_s": 5.0}

RudeClient = Callable[[LocalServer, random.Random], Awaitable[None]]


@asynccontextmanager
async def socket_of(
    server: LocalServer, init: dict[str, Any] | None = None
) -> AsyncIterator[ClientConnection]:
    """A socket that sends an init and, at the end, vanishes without a closing handshake."""
    socket = await open_socket(server.ws, compression=None, max_size=None, ping_interval=None)
    try:
        if init is not None:
            await socket.send(msgpack.encode(init))
        yield socket
    finally:
        socket.transport.abort()


async def until_frames(socket: ClientConnection, num_chunks: int) -> None:
    """Reads, and acknowledges, until the first header of chunk number `num_chunks` is here."""
    while True:
        message = msgpack.decode(await socket.recv(decode=False))
        if message.get("chunk_index", -1) >= num_chunks:
            return
        if message["type"] == "chunk_stats":
            await socket.send(
                msgpack.encode({"type": "ack", "chunk_index": message["chunk_index"]})
            )
        if message["type"] == "frame_batch_header":
            await socket.recv()


async def until_closed(socket: ClientConnection) -> None:
    while True:
        await socket.recv()


async def leave_while_opening(server: LocalServer, chance: random.Random) -> None:
    async with socket_of(server, INIT):
        await asyncio.sleep(chance.uniform(0, 0.5))


async def leave_in_mid_chunk(server: LocalServer, chance: random.Random) -> None:
    async with socket_of(server, INIT) as socket:
        await until_frames(socket, chance.randrange(3))


async def close_in_mid_chunk(server: LocalServer, chance: random.Random) -> None:
    async with socket_of(server, INIT) as socket:
        await until_frames(socket, chance.randrange(3))
        await socket.close(1001)


async def freeze(server: LocalServer, chance: random.Random) -> None:
    """A plain client that reads nothing and answers no ping."""
    async with socket_of(server, {"type": "init", "realtime_output_format": "raw"}) as socket:
        socket.transport.pause_reading()
        await asyncio.sleep(FREEZE_S)


async def never_acknowledge(server: LocalServer, chance: random.Random) -> None:
    async with socket_of(server, INIT) as socket:
        async with asyncio.timeout(chance.uniform(2, 10)):
            await until_closed(socket)


async def send_garbage(server: LocalServer, chance: random.Random) -> None:
    """Random messages, then random bytes in place of frames."""
    async with socket_of(server) as socket:
        for _ in range(20):
            await socket.send(chance.randbytes(chance.randrange(1, 2000)))
        socket.transport.write(chance.randbytes(2000))
        await until_closed(socket)


async def send_too_much(server: LocalServer, chance: random.Random) -> None:
    async with socket_of(server) as socket:
        await socket.send(bytes(ClientLimits().max_init_bytes + 1))
        await until_closed(socket)


async def send_text(server: LocalServer, chance: random.Random) -> None:
    async with socket_of(server) as socket:
        for _ in range(ClientLimits().max_errors + 1):
            await socket.send('{"type": "init"}')
        await until_closed(socket)


async def send_bad_inits(server: LocalServer, chance: random.Random) -> None:
    """Wrong values, and an image that is none; then a good init."""
    invalid: list[dict[str, Any]] = [
        {"size": "wide"},
        {"seed": []},
        {"first_frame": chance.randbytes(10**6)},
    ]
    async with socket_of(server) as socket:
        for wrong in invalid:
            await socket.send(msgpack.encode({**INIT, **wrong}))
        await socket.send(msgpack.encode(INIT))
        await asyncio.sleep(chance.uniform(0.5, 3))


async def flood_with_events(server: LocalServer, chance: random.Random) -> None:
    async with socket_of(server, INIT) as socket:
        for number in range(3 * ClientLimits().max_errors):
            event = {"type": "event", "kind": "camera_actions", "event_id": number, "payload": 7}
            await socket.send(msgpack.encode(event))
        await until_closed(socket)


async def flood_with_pings(server: LocalServer, chance: random.Random) -> None:
    async with socket_of(server, INIT) as socket:
        for _ in range(2000):
            await socket.ping()


async def half_a_handshake(server: LocalServer, chance: random.Random) -> None:
    await send_bytes(server, f"GET {SOCKET_PATH} HTTP/1.1\r\nhost: {server.address}\r\nupgr")


async def half_an_upload(server: LocalServer, chance: random.Random) -> None:
    await send_bytes(server, clip_request(server, "actions=w-6", num_bytes=10**6))


async def leave_clip(server: LocalServer, chance: random.Random) -> None:
    """Requests a clip of ten seconds and leaves while it is generated."""
    body = "actions=w-40"
    request = clip_request(server, body, num_bytes=len(body))
    await send_bytes(server, request, stay_s=chance.uniform(0.5, 6))


def clip_request(server: LocalServer, body: str, *, num_bytes: int) -> str:
    return (
        f"POST {CLIPS_PATH} HTTP/1.1\r\nhost: {server.address}\r\ncontent-length: {num_bytes}\r\n"
        f"content-type: application/x-www-form-urlencoded\r\n\r\n{body}"
    )


async def send_bytes(server: LocalServer, text: str, *, stay_s: float = 3.0) -> None:
    """Sends text over TCP, reads for a while and vanishes."""
    host, port = server.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(text.encode())
        async with asyncio.timeout(stay_s):
            while await reader.read(65_536):
                pass
    finally:
        writer.transport.abort()


KINDS: tuple[RudeClient, ...] = (
    leave_while_opening,
    leave_in_mid_chunk,
    close_in_mid_chunk,
    freeze,
    never_acknowledge,
    send_garbage,
    send_too_much,
    send_text,
    send_bad_inits,
    flood_with_events,
    flood_with_pings,
    half_a_handshake,
    half_an_upload,
    leave_clip,
)


@dataclass(kw_only=True)
class Report:
    """The figures of a run."""

    samples: list[Sample] = field(default_factory=list)
    walks: list[Walk] = field(default_factory=list)  # more than one: the server ended the others
    clients: dict[str, dict[str, int]] = field(default_factory=dict)  # endings by kind

    def early_sample(self) -> Sample:
        """The sample of EARLY_MINUTE, or of the middle of a short run."""
        middle = self.samples[-1].minute / 2
        return next(s for s in self.samples if s.minute >= min(EARLY_MINUTE, middle))

    def gaps_s(self) -> list[float]:
        """Seconds between two chunks of the walker."""
        return [float(gap) for walked in self.walks for gap in np.diff(walked.arrived_s)]


async def observe(server: LocalServer, *, minutes: float, every_s: float) -> Report:
    """Runs rude clients beside a walker for so long."""
    report = Report()
    walking = asyncio.create_task(keep_walking(server, report))
    rude = asyncio.create_task(keep_being_rude(server, report, every_s=every_s))
    started_s = time.monotonic()
    period_s = min(60.0, 60 * minutes / MIN_SAMPLES)
    while (now_s := time.monotonic()) < started_s + 60 * minutes:
        report.samples.append(await asyncio.to_thread(take_sample, server, started_s=started_s))
        if walking.done() or rude.done():
            break  # with an error of this benchmark, which is raised below
        await asyncio.sleep(max(0.0, now_s + period_s - time.monotonic()))
    for task in (rude, walking):
        task.cancel()
    for result in await asyncio.gather(rude, walking, return_exceptions=True):
        if not isinstance(result, asyncio.CancelledError) and isinstance(result, BaseException):
            raise result
    report.samples.append(await settled_sample(server, started_s=started_s))
    return report


async def settled_sample(server: LocalServer, *, started_s: float) -> Sample:
    """The first sample without a session, or the one after SETTLE_S."""
    deadline_s = time.monotonic() + SETTLE_S
    while True:
        await asyncio.sleep(SETTLE_EVERY_S)
        sample = await asyncio.to_thread(take_sample, server, started_s=started_s)
        if not (sample.sessions or sample.connections) or time.monotonic() > deadline_s:
            return sample


async def keep_walking(server: LocalServer, report: Report) -> None:
    while True:
        seen = Walk()
        report.walks.append(seen)
        await walk(server, seen)
        await asyncio.sleep(1)


async def keep_being_rude(server: LocalServer, report: Report, *, every_s: float) -> None:
    """Starts clients until cancelled; those that are there leave then."""
    chance = random.Random(0)
    places = asyncio.Semaphore(MAX_AT_ONCE)
    async with asyncio.TaskGroup() as clients:
        while True:
            for kind in chance.sample(KINDS, len(KINDS)):
                await places.acquire()
                client = clients.create_task(be_rude(kind, server, chance, report))
                client.add_done_callback(lambda _: places.release())
                await asyncio.sleep(every_s)


async def be_rude(
    kind: RudeClient, server: LocalServer, chance: random.Random, report: Report
) -> None:
    """Runs one client and counts how it ended."""
    try:
        async with asyncio.timeout(CLIENT_TIMEOUT_S):
            await kind(server, chance)
        ending = "left"
    except TimeoutError:
        ending = "left"  # it had stayed as long as it wanted
    except ConnectionClosed:
        ending = "closed by the server"
    except OSError:
        ending = "not connected"
    endings = report.clients.setdefault(
        kind.__name__, {"left": 0, "closed by the server": 0, "not connected": 0}
    )
    endings[ending] += 1


def print_report(report: Report) -> None:
    first, early, last = report.samples[0], report.early_sample(), report.samples[-1]
    roles = {role: to_row(first, early, last, role) for role in last.processes}
    print_table(f"MiB by process, at minutes 0, {early.minute:g} and {last.minute:g}", roles)
    print_table("rude clients", dict(sorted(report.clients.items())))
    print()
    figures = summarize(report)
    for figure, value in figures.items():
        print(f"{figure:32} {value:>10}")
    print_json("rude_clients", {**figures, "samples": to_json(report.samples)})


def summarize(report: Report) -> dict[str, float]:
    last = report.samples[-1]
    return {
        "minutes": last.minute,
        "rude_clients": sum(sum(endings.values()) for endings in report.clients.values()),
        "walks": len(report.walks),
        "chunks": sum(len(walked.arrived_s) for walked in report.walks),
        **percentiles("chunk_gap_s", report.gaps_s(), digits=2),
        "chunk_gap_s_max": round(max(report.gaps_s()), 2),
        "object_store_bytes_max": max(sample.object_store_bytes for sample in report.samples),
        "object_store_bytes_left": last.object_store_bytes,
        "sessions_left": last.sessions,
        "connections_left": last.connections,
        "tracebacks": last.tracebacks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two clients")
    options = parser.parse_args()
    if options.minutes <= 0 or options.every <= 0:
        parser.error("--minutes and --every must be above 0")
    with local_server(ARGS, change=one_group) as server:
        report = asyncio.run(observe(server, minutes=options.minutes, every_s=options.every))
    print_report(report)


if __name__ == "__main__":
    main()
