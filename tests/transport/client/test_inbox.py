import asyncio
from types import SimpleNamespace

import pytest

from transport.client.inbox import Inbox, Received
from transport.wire.errors import TransportError
from transport.wire.messages import Queued, Starting


def received(index):
    return Received(SimpleNamespace(world_index=index), None)


def run(coroutine):
    return asyncio.run(coroutine)


def test_items_come_in_order_and_before_the_end():
    async def scenario():
        inbox = Inbox()
        inbox.put(Starting())
        inbox.put(Queued(1))
        inbox.close(None)
        return [await inbox.get() for _ in range(4)]

    assert run(scenario()) == [Starting(), Queued(1), None, None]


def test_an_error_is_raised_again_and_again():
    async def scenario():
        inbox = Inbox()
        inbox.close(TransportError("the world is lost"))
        for _ in range(2):
            with pytest.raises(TransportError, match="the world is lost"):
                await inbox.get()

    run(scenario())


def test_a_caller_waits_for_an_item():
    async def scenario():
        inbox = Inbox()
        waiting = asyncio.create_task(inbox.get())
        await asyncio.sleep(0)
        inbox.put(Queued(2))
        return await waiting

    assert run(scenario()) == Queued(2)


def test_only_chunks_are_dropped():
    async def scenario():
        inbox = Inbox()
        for index in (4, 5, 6):
            inbox.put(received(index))
        inbox.put(Queued(1))
        inbox.drop_chunks(5)
        assert [one.chunk.world_index for one in inbox.chunks] == [4]
        inbox.drop_chunks()
        assert inbox.chunks == []
        return await inbox.get()

    assert run(scenario()) == Queued(1)


def test_chunks_of_a_world_that_is_turned_back_are_not_given_out():
    async def scenario():
        inbox = Inbox()
        inbox.hold_chunks()
        inbox.put(Starting())
        inbox.put(received(1))
        assert await inbox.get() == Starting()
        waiting = asyncio.create_task(inbox.get())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        inbox.drop_chunks()
        inbox.put(received(4))
        inbox.release_chunks()
        return await waiting

    assert run(scenario()).chunk.world_index == 4


def test_held_chunks_come_before_the_end():
    async def scenario():
        inbox = Inbox()
        inbox.hold_chunks()
        inbox.put(received(1))
        inbox.close(None)
        return [await inbox.get() for _ in range(2)]

    last, end = run(scenario())
    assert last.chunk.world_index == 1 and end is None
