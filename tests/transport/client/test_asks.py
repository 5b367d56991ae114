import asyncio

import pytest

from transport.client.asks import Asks
from transport.wire.errors import TransportError
from transport.wire.messages import Rewound, SnapshotMessage

SAVED = SnapshotMessage(event_id=1, world_chunk_index=3, data=b"x")


def test_an_answer_belongs_to_its_event():
    async def scenario():
        asks = Asks()
        save, rewind = asks.add(1, "save", None), asks.add(2, "rewind", {"chunk_index": 3})
        asks.answer(Rewound(event_id=7, world_chunk_index=3, seed=1))  # of nobody
        asks.answer(SAVED)
        assert await save == SAVED and not rewind.done()
        asks.fail(2, TransportError("expected 5 to 9"))
        with pytest.raises(TransportError, match="expected 5 to 9"):
            await rewind
        assert asks.pending == {}

    asyncio.run(scenario())


def test_a_lost_socket_leaves_what_may_be_asked_twice():
    async def scenario():
        asks = Asks()
        for number, kind, payload in (
            (1, "save", None),
            (2, "rewind", {"chunk_index": 3}),
            (3, "reset", {}),
        ):
            asks.add(number, kind, payload)
        relative = asks.add(4, "rewind", {"seconds": 2.0})
        asks.note_loss()
        assert list(asks.pending) == [1, 2, 3]
        with pytest.raises(TransportError, match="the connection broke before the answer"):
            await relative
        asks.pending.clear()

    asyncio.run(scenario())


def test_an_ask_after_the_end_fails_at_once():
    async def scenario():
        asks = Asks()
        early = asks.add(1, "save", None)
        asks.close(TransportError("the session has ended"))
        for answer in (early, asks.add(2, "save", None)):
            with pytest.raises(TransportError, match="the session has ended"):
                await answer

    asyncio.run(scenario())
