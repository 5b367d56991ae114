"""Tokens and their limits behind Serve's proxy, with two transport replicas."""

import asyncio
import json
import os
import signal
import time
import urllib.request
from contextlib import AsyncExitStack, suppress

import pytest
from msgspec import msgpack
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed

from benchmarks.http_answer import answer_to
from benchmarks.local_server import local_server
from transport.client import connect
from transport.wire.errors import TransportError

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.xdist_group("serve")]

TIMEOUT_S = 60
FULL = ("this token may have 2 sessions at once", 1013)
UNKNOWN = ("the token is unknown", 1008)


def token_of(name):
    return f"{name}-5ecre7-0123456789"


def write_tokens(file, *names):
    limits = {"max_sessions": 2, "opens_per_minute": 1000}
    entries = [{"name": name, "token": token_of(name), "limits": limits} for name in names]
    file.write_text(json.dumps(entries))


@pytest.fixture(scope="module")
def tokens_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("access") / "tokens.yaml"
    write_tokens(file, "alice", "bob", "carol")
    return file


@pytest.fixture(scope="module")
def server(tokens_file):
    args = {
        "access": {"tokens_file": str(tokens_file)},
        "allowed_origins": ["https://example.com"],
        "limits": {"init_timeout_s": 2 * TIMEOUT_S},  # a test holds sockets that send none
    }
    with local_server(args, num_transports=2, token=token_of("alice")) as running:
        yield running


def run(scenario):
    return asyncio.run(asyncio.wait_for(scenario, TIMEOUT_S))


def get(server, path, **headers):
    request = urllib.request.Request(server.http + path, headers=headers)
    return answer_to(request, timeout_s=TIMEOUT_S)


async def outcome(url, **fields):
    """The text of the error that a socket gets, and its close code; "open" if its init is read."""
    async with open_socket(url, **fields) as socket:
        error = await first_error(socket)
        if error.get("field") == "fps":
            return "open"
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        return error["content"], closed.value.rcvd.code


async def first_error(socket):
    """The answer to an init with a wrong `fps`, which is another error if it is not read."""
    with suppress(ConnectionClosed):  # the server may have closed it before
        await socket.send(msgpack.encode({"type": "init", "fps": 0}))
    return msgpack.decode(await socket.recv())


async def hold_two(stack, server, name):
    """Two sockets that count for a token. Those of the test before may still count."""
    for _ in range(2):
        while True:
            socket = await stack.enter_async_context(open_socket(server.ws, **as_user(name)))
            if (await first_error(socket)).get("field") == "fps":
                break
            await asyncio.sleep(0.1)


def as_user(name):
    return {"additional_headers": {"authorization": f"Bearer {token_of(name)}"}}


async def until(condition, timeout_s=TIMEOUT_S):
    deadline = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


def test_refusals_pass_serve_s_proxy(server):
    for path in ("/", "/health", "/v1/world", "/static/page.js", "/none"):
        status, headers, _ = get(server, path)
        assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="lingbot"')
    status, headers, _ = get(server, f"/?token={token_of('alice')}")
    assert status == 200 and "HttpOnly" in headers["set-cookie"]
    cookie = headers["set-cookie"].partition(";")[0]
    assert get(server, "/static/page.js", cookie=cookie)[0] == 200

    async def scenario():
        assert (await outcome(server.ws))[1] == 1008
        assert await outcome(f"{server.ws}?token=nobody-0123456789") == UNKNOWN
        own, other, allowed = f"http://{server.address}", "https://a.org", "https://example.com"
        text, code = await outcome(server.ws, **as_user("alice"), origin=other)
        assert code == 1008 and "'https://a.org' is not allowed" in text
        assert await outcome(server.ws, **as_user("alice"), origin=allowed) == "open"
        offered = ["bearer", token_of("alice")]
        async with open_socket(server.ws, subprotocols=offered, origin=own) as socket:
            assert socket.subprotocol == "bearer"
        page = {"additional_headers": {"cookie": cookie}, "origin": own}
        assert await outcome(server.ws, **page) == "open"
        assert await outcome(f"{server.ws}?token={token_of('alice')}") == "open"

    run(scenario())


def test_a_client_with_a_token_walks(server):
    async def scenario():
        async with connect(server.ws, token=token_of("bob"), max_chunks=2) as client:
            return [chunk async for chunk in client.chunks()]

    assert len(run(scenario())) == 2
    with pytest.raises(TransportError, match="a token is required"):
        run(_first_chunk(server.ws))


async def _first_chunk(url):
    async with connect(url) as client:
        return await anext(client.chunks())


def test_a_limit_holds_across_the_replicas(server):
    """Serve deals sockets to both replicas; each alone would let in two."""

    async def scenario():
        async with AsyncExitStack() as held:
            await hold_two(held, server, "bob")
            for _ in range(8):
                assert await outcome(server.ws, **as_user("bob")) == FULL
            assert await outcome(server.ws, **as_user("carol")) == "open"

        async def is_free():
            return await outcome(server.ws, **as_user("bob")) == "open"

        await until(is_free)

    run(scenario())


def test_a_counter_that_dies_is_told_what_is_held(server):
    async def scenario():
        async with AsyncExitStack() as held:
            await hold_two(held, server, "carol")
            assert await outcome(server.ws, **as_user("carol")) == FULL
            (counter,) = server.descendants("ServeReplica:lingbot:TokenUsage")
            os.kill(counter, signal.SIGKILL)

            async def is_counted_again():
                new = server.descendants("ServeReplica:lingbot:TokenUsage")
                if new in ([], [counter]):
                    return False
                return await outcome(server.ws, **as_user("carol")) == FULL

            await until(is_counted_again)
            assert await outcome(server.ws, **as_user("bob")) == "open"

        async def is_free():
            return await outcome(server.ws, **as_user("carol")) == "open"

        await until(is_free)

    run(scenario())


def test_what_a_dead_transport_held_is_free_again(server):
    async def scenario():
        async with AsyncExitStack() as held:
            await hold_two(held, server, "bob")
            assert await outcome(server.ws, **as_user("bob")) == FULL
            for transport in server.descendants("ServeReplica:lingbot:Transport"):
                os.kill(transport, signal.SIGKILL)

        async def is_free():
            try:
                return await outcome(server.ws, **as_user("bob")) == "open"
            except Exception:  # no replica answers yet
                return False

        await until(is_free)

    run(scenario())


def test_a_withdrawn_token_ends_its_session(server, tokens_file):
    async def scenario():
        async with connect(server.ws, token=token_of("carol")) as client:
            with pytest.raises(TransportError, match="the token has been withdrawn") as ended:
                async for chunk in client.chunks():
                    if chunk.index == 1:
                        write_tokens(tokens_file, "alice", "bob")
                        began = time.monotonic()
            assert ended.value.code == "unauthorized"
            assert time.monotonic() - began < 30

        async def is_refused():  # the other replica reads the file at its own time
            return await outcome(server.ws, **as_user("carol")) == UNKNOWN

        await until(is_refused)

    run(scenario())


def test_no_file_of_the_server_has_a_token(server):
    """All lines of Ray, of Serve's proxies and of the replicas."""

    def has_token(path):
        with suppress(FileNotFoundError):  # a temporary one
            return b"5ecre7" in path.read_bytes()

    files = [path for path in server.folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not list(filter(has_token, files))
