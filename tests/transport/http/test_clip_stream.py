"""Clips are generated while somebody reads them, and end with a client that leaves."""

import io

import anyio
import av
import msgspec
import pytest
from starlette.requests import Request

from tests.waiting import TIMEOUT_S
from transport.http.clip import clip
from transport.wire.errors import WorldLost
from transport.wire.limits import ClientLimits
from transport.worker_limits import CapacityLimits


def stream_clip(
    world,
    *,
    actions,
    num_steps,
    capacity=None,
    on_send=lambda message: None,
    fetcher=None,
):
    """The messages to a client that leaves after `num_steps`. `on_send` is called with each.

    With a fetcher the image is a URL, and the client leaves once it is being fetched.
    """
    fields = {"actions": actions}
    if fetcher:
        fields["image"] = "https://example.com/a.png"
    body = msgspec.json.encode(fields)
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "headers": headers}
    sent = []

    async def receive():
        if messages:
            return messages.pop()
        while len(world.steps) < num_steps or (fetcher and not fetcher.asked):
            await anyio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)
        on_send(message)

    async def scenario():
        with anyio.fail_after(TIMEOUT_S):
            request = Request(scope, receive)
            response = await clip(
                request,
                world,
                limits=ClientLimits(),
                capacity=capacity or CapacityLimits(),
                fetcher=fetcher,
            )
            await response(scope, receive, send)

    anyio.run(scenario)
    return sent


def test_a_client_that_leaves_cancels_its_fetch(world, fetcher):
    assert stream_clip(world, actions="w-1", num_steps=0, fetcher=fetcher) == []
    assert fetcher.cancelled
    assert world.specs == []


def test_after_a_disconnect_no_more_chunks_are_generated(world):
    """The next chunk may be on its way already; no other one follows."""
    sent = stream_clip(world, actions="w-240", num_steps=2)
    assert sent[-1]["more_body"] is True
    assert len(world.steps) in (2, 3)
    assert world.live == set()


def gone(message):
    raise OSError("the connection is closed")


@pytest.mark.parametrize("num_steps, on_send", [(2, lambda message: None), (99, gone)])
def test_a_client_that_leaves_a_clip_leaves_one_line_in_the_log(world, caplog, num_steps, on_send):
    caplog.set_level("INFO")
    stream_clip(world, actions="w-240", num_steps=num_steps, on_send=on_send)
    opened, closed = [one for one in caplog.records if one.name.startswith("transport")]
    assert opened.getMessage() == "session s1 opened: 32x16 as a clip of 240 latent frames"
    assert closed.getMessage().startswith("session s1 closed, 499 the client left: ")
    assert (closed.levelname, closed.exc_info) == ("INFO", None)
    assert world.live == set()


def test_a_disconnect_during_a_step_frees_the_world(world):
    world.running.clear()
    assert stream_clip(world, actions="w-6", num_steps=1) == []
    assert world.live == set()


def test_a_clip_is_streamed_while_it_is_generated(world):
    num_chunks = []  # requested so far, at each piece of the clip

    def note(message):
        if message["type"] == "http.response.body" and message["body"]:
            num_chunks.append(len(world.steps))

    sent = stream_clip(world, actions="w-15", num_steps=99, on_send=note)
    assert num_chunks == [1, 3, 5], "fragments of half a second, and the rest"
    assert sent[0]["status"] == 200
    data = b"".join(message.get("body", b"") for message in sent)
    with av.open(io.BytesIO(data)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 57


def test_a_clip_that_fails_midway_raises_and_frees_the_world(world):
    def break_off(message):
        world.on_step = WorldLost("restarting")

    with pytest.raises(ExceptionGroup):
        stream_clip(world, actions="w-15", num_steps=99, on_send=break_off)
    assert world.live == set()


def test_encoding_a_clip_waits_for_no_upload_and_for_no_payload(world):
    capacity = CapacityLimits()
    open_world = world.open

    async def open_in_a_crowd(spec, image, *, on_wait):
        for limiter in (capacity.decode_image, capacity.encode):
            for stranger in range(int(limiter.total_tokens)):
                limiter.acquire_on_behalf_of_nowait(stranger)
        return await open_world(spec, image, on_wait=on_wait)

    world.open = open_in_a_crowd
    sent = stream_clip(world, actions="w-6", num_steps=99, capacity=capacity)
    assert sent[0]["status"] == 200
    assert not sent[-1].get("more_body")


def test_a_client_that_reads_nothing_frees_the_world(world):
    """The server has back pressure here: a send waits for the client."""

    async def scenario():
        body = msgspec.json.encode({"actions": "w-30"})
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "headers": headers}

        async def receive():
            return messages.pop() if messages else await anyio.sleep_forever()

        async def send(message):
            if message["type"] == "http.response.body":
                await anyio.sleep_forever()

        limits = ClientLimits(ack_timeout_s=0.1)
        response = await clip(
            Request(scope, receive), world, limits=limits, capacity=CapacityLimits()
        )
        with anyio.fail_after(TIMEOUT_S), pytest.raises(ExceptionGroup):
            await response(scope, receive, send)

    anyio.run(scenario)
    assert world.live == set()
