import anyio
import pytest
from starlette.websockets import WebSocketDisconnect

from transport.connection.sender import MessageSender
from transport.wire.errors import Refused

HEADER, PAYLOAD = b"header", b"payload"


class Socket:
    """Keeps what is sent. Each send waits until the others have had their turn."""

    def __init__(self, error=None):
        self.sent, self._error = [], error

    async def send_bytes(self, data):
        await anyio.wait_all_tasks_blocked()
        if self._error:
            raise self._error
        self.sent.append(data)


class StuckSocket:
    async def send_bytes(self, data):
        await anyio.sleep_forever()


def ignore(unit, num_written):
    pass


def test_no_message_comes_between_the_parts_of_a_unit():
    async def scenario():
        socket = Socket()
        sender = MessageSender(socket, timeout_s=60, on_progress=ignore)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sender.send, [HEADER, PAYLOAD])
            for _ in range(3):
                tasks.start_soon(sender.send, [b"reply"])
        return socket.sent

    assert anyio.run(scenario) == [HEADER, PAYLOAD] + [b"reply"] * 3


def test_an_empty_unit_sends_nothing():
    async def scenario():
        socket = Socket()
        progress = []
        sender = MessageSender(
            socket, timeout_s=60, on_progress=lambda *args: progress.append(args)
        )
        assert await sender.send([]) == (0.0, 0.0)
        return socket.sent, progress

    assert anyio.run(scenario) == ([], [])


def test_progress_is_reported_before_the_unit_and_after_each_part():
    async def scenario():
        socket, seen = Socket(), []

        def note(unit, num_written):
            seen.append((len(unit), num_written, len(socket.sent)))

        sender = MessageSender(socket, timeout_s=60, on_progress=note)
        await sender.send([HEADER, PAYLOAD])
        return seen

    assert anyio.run(scenario) == [(2, 0, 0), (2, 1, 1), (2, 2, 2)]


def test_a_write_over_the_timeout_is_refused():
    async def scenario():
        await MessageSender(StuckSocket(), timeout_s=0.01, on_progress=ignore).send([b"reply"])

    with pytest.raises(Refused, match="a message could not be sent within 0.01 s") as caught:
        anyio.run(scenario)
    assert (caught.value.code, caught.value.close_code) == ("timeout", 1008)


class StuckOnPayload(Socket):
    """Takes everything but payloads."""

    async def send_bytes(self, data):
        if data == PAYLOAD:
            await anyio.sleep_forever()
        await super().send_bytes(data)


def test_after_an_interrupted_unit_nothing_is_sent():
    """A waiting reply would arrive where the client expects the payload."""

    async def scenario():
        socket, errors = StuckOnPayload(), []
        sender = MessageSender(socket, timeout_s=0.05, on_progress=ignore)

        async def send(unit):
            try:
                await sender.send(unit)
            except Refused as error:
                errors.append(str(error))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, [HEADER, PAYLOAD])
            for _ in range(2):
                tasks.start_soon(send, [b"reply"])
        return socket.sent, errors

    sent, errors = anyio.run(scenario)
    assert sent == [HEADER]
    assert errors == ["a message could not be sent within 0.05 s"] * 3


def test_a_send_to_a_client_that_left_is_a_disconnect():
    async def scenario():
        socket = Socket(RuntimeError("closed"))
        await MessageSender(socket, timeout_s=60, on_progress=ignore).send([b"reply"])

    with pytest.raises(WebSocketDisconnect) as caught:
        anyio.run(scenario)
    assert caught.value.code == 1006
