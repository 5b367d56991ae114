"""A client that holds a key for a while and rests for a while, as a person does."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from msgspec import msgpack
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed

from benchmarks.local_server import LocalServer

HOLD_S, REST_S = 3.0, 6.0  # on average; each is drawn between half and one and a half of it
INIT = {"type": "init", "extensions": True, "realtime_output_format": "jpeg", "prompt": "x"}
Message = dict[str, Any]


@dataclass(kw_only=True)
class Seen:
    """The observations of one client. All times are readings of time.monotonic."""

    asked_s: float = 0.0
    opened_s: float | None = None  # None: it was refused, or left before its turn
    waited_in: list[str] = field(default_factory=list)  # kinds of status messages, without repeats
    arrived_s: list[float] = field(default_factory=list)  # of chunks
    periods_s: list[tuple[float, float]] = field(default_factory=list)  # arrival; since the last
    controls_s: list[tuple[float, float]] = field(default_factory=list)  # arrival; since the key
    num_pauses: int = 0
    resumed: bool = False  # since the last chunk
    error: Message | None = None
    close_code: int | None = None  # None: it left by itself

    @property
    def wait_s(self) -> float | None:
        """The seconds until the world was open."""
        return None if self.opened_s is None else self.opened_s - self.asked_s

    def note_chunk(self, now_s: float) -> None:
        """A chunk has arrived. A period with a pause in it is not the server's speed.

        The chunk before the pause may arrive after `paused`; the one after it follows `resumed`.
        """
        if self.arrived_s and not self.resumed:
            self.periods_s.append((now_s, now_s - self.arrived_s[-1]))
        self.resumed = False
        self.arrived_s.append(now_s)


async def use_keys(server: LocalServer, seen: Seen, chance: random.Random) -> None:
    """Play until cancelled, or until the server closes the socket."""
    seen.asked_s = time.monotonic()
    async with open_socket(server.ws, max_size=None, compression=None) as socket:
        await socket.send(msgpack.encode(INIT))
        pressed: dict[int, float] = {}  # when each event that no frame shows yet was sent
        keys = asyncio.create_task(press_keys(socket, pressed, seen, chance))
        try:
            while True:
                message: Message = msgpack.decode(await socket.recv(decode=False))
                if message["type"] == "frame_batch_header":
                    await socket.recv()
                await _note(socket, message, seen, pressed)
        except ConnectionClosed:
            seen.close_code = socket.close_code
        finally:
            keys.cancel()


async def press_keys(
    socket: ClientConnection, pressed: dict[int, float], seen: Seen, chance: random.Random
) -> None:
    """Hold and release keys from the opening of the world on."""
    try:
        while seen.opened_s is None:
            await asyncio.sleep(0.05)
        await asyncio.sleep(chance.uniform(0, HOLD_S + REST_S))  # clients are not in step
        for number in count(1):
            held = number % 2 == 1
            if held:
                pressed[number] = time.monotonic()
            actions = [chance.choice("wasd")] if held else []
            payload = {"mode": "state", "transitions": [{"actions": actions}]}
            event = {"type": "event", "kind": "camera_actions", "event_id": number}
            await socket.send(msgpack.encode(event | {"payload": payload}))
            await asyncio.sleep((HOLD_S if held else REST_S) * chance.uniform(0.5, 1.5))
    except ConnectionClosed:
        pass  # the reader notes it


async def _note(
    socket: ClientConnection, message: Message, seen: Seen, pressed: dict[int, float]
) -> None:
    now_s = time.monotonic()
    match message["type"]:
        case "queued" | "starting" as kind:
            if seen.waited_in[-1:] != [kind]:
                seen.waited_in.append(kind)
        case "session":
            seen.opened_s = now_s
        case "paused":
            seen.num_pauses += 1
        case "resumed":
            seen.resumed = True
        case "error":
            seen.error = message
        case "frame_batch" | "frame_batch_header":
            for number in [each for each in pressed if each <= (message.get("event_id") or 0)]:
                seen.controls_s.append((now_s, now_s - pressed.pop(number)))
        case "chunk_stats":
            seen.note_chunk(now_s)
            ack = {"type": "ack", "chunk_index": message["chunk_index"]}
            await socket.send(msgpack.encode(ack))
