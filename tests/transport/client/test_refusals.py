"""Events that the server refuses: the caller learns it, and the walk goes on."""

import asyncio

import pytest
from msgspec.structs import replace

from transport.client import Reconnected, connect
from transport.client.news import describe
from transport.client.sent_controls import SentControls
from transport.paths import SOCKET_PATH
from transport.wire.errors import Refused, TransportError
from transport.wire.messages import Error

FAST = {"realtime_output_pacing": False}


def encodes_prompts(world, *, error=None):
    world.info = replace(world.info, encodes_prompts=True)
    world.encoding.set()
    world.on_encode = error


async def until_refused(client):
    """Takes chunks until an event has been refused, and one more."""
    while not any(isinstance(one, Error) for one in client.warnings):
        assert await client.next_chunk() is not None
    assert await client.next_chunk() is not None


REFUSED = {
    "a prompt that cannot be encoded": (lambda client: client.prompt("rain"), "prompt"),
    "no prompt": (lambda client: client.prompt(""), "payload"),
    "a long prompt": (lambda client: client.prompt("x" * 8001), "payload"),
    "an unknown format": (
        lambda client: client.change_output(realtime_output_format="gif"),
        "payload.realtime_output_format",
    ),
    "an unknown field": (lambda client: client.change_output(fps=20), "payload.fps"),
    "keys that are no text": (lambda client: client.send_actions([[1]]), "payload[0][0]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_event_is_news_and_the_walk_goes_on(world, listen, relay_to, name):
    """It is not sent again over another socket, whose init would be refused, too."""
    send, field = REFUSED[name]
    encodes_prompts(world, error=Refused("the text encoder is gone"))

    async def scenario(port):
        news = []
        async with (
            relay_to(port) as relay,
            connect(relay.url, on_news=news.append, **FAST) as client,
        ):
            assert await client.next_chunk() is not None
            event_id = await send(client)
            await until_refused(client)
            relay.cut()
            while not any(isinstance(one, Reconnected) for one in news):
                assert await client.next_chunk() is not None
            assert await client.save()  # the events before it have been answered
        return client, news, event_id

    with listen(world) as port:
        client, news, event_id = asyncio.run(asyncio.wait_for(scenario(port), 60))
    (error,) = client.warnings
    assert (error.event_id, error.field) == (event_id, field)
    assert [one for one in news if isinstance(one, Error)] == [error]
    assert describe(error) == error.content


def test_the_prompt_of_an_init_may_be_refused_once_its_world_is_open(url, world):
    async def scenario():
        async with connect(url, **FAST) as client:
            await client.next_chunk()
            fork = await client.fork()
        encodes_prompts(world, error=Refused("the text encoder is gone"))
        async with connect(url, fork=fork.token, prompt="rain", **FAST) as client:
            await until_refused(client)
        return client.warnings

    (error,) = asyncio.run(asyncio.wait_for(scenario(), 60))
    assert (error.event_id, error.field) == (None, "prompt")


def test_an_init_with_a_wrong_prompt_raises(url):
    async def scenario():
        async with connect(url, prompt="x" * 8001) as client:
            await client.next_chunk()

    with pytest.raises(TransportError, match="`prompt`"):
        asyncio.run(asyncio.wait_for(scenario(), 60))


def test_more_refused_events_than_allowed_end_the_session(world, listen):
    async def scenario(url):
        async with connect(url, **FAST) as client:
            for _ in range(3):
                await client.prompt("")
            async for _ in client.chunks():
                pass

    with (
        listen(world, max_errors=2) as port,
        pytest.raises(TransportError, match="more than 2 invalid messages") as ended,
    ):
        asyncio.run(asyncio.wait_for(scenario(f"ws://127.0.0.1:{port}{SOCKET_PATH}"), 60))
    assert ended.value.code == "too_many_errors"


def test_an_output_is_in_the_next_init_once_it_is_accepted():
    controls = SentControls()
    controls.note_output({"output_compression": 40}, event_id=1)
    controls.note_output({"output_compression": 999}, event_id=2)
    assert controls.rest(9) == [
        ("output", {"output_compression": 40}, 1),
        ("output", {"output_compression": 999}, 2),
    ]
    controls.refuse(2)
    assert controls.accept(1) == {"output_compression": 40}
    assert controls.accept(2) == {} and controls.rest(9) == []
