"""Answers of the server that an image is fetched from: redirects, sizes, slow ones."""

import time
from functools import partial

import anyio
import pytest
from aiohttp import web

from tests.transport.image_site import PIXELS, URL
from tests.waiting import until
from transport.image_fetcher import MAX_BYTES, MAX_FETCHES


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location, text",
    [
        ("https://evil.org/", "does not list"),
        ("https://169.254.169.254/latest", "does not list"),
        ("//evil.org/", "does not list"),
        ("http://images.example.com/", "expected https://HOST/"),
        ("https://images.example.com:22/", "expected https://HOST/"),
        ("file:///etc/passwd", "does not list"),
        ("/a.png", "is redirected more than 3 times"),
    ],
)
def test_a_redirect_is_checked_as_the_url_is(site, status, location, text):
    site.answer = {"status": status, "headers": {"location": location}}
    assert text in site.refusal(URL)
    assert len(site.asked) == (4 if location == "/a.png" else 1)


@pytest.mark.parametrize("location", ["/b.png", "https://bücher.example/b.png", "b.png"])
def test_a_redirect_to_a_listed_host_is_followed(site, location):
    async def redirect_once(request):
        if request.path == "/a.png":
            return web.Response(status=302, headers={"location": location})
        return await site.give(request)

    site.handle = redirect_once
    assert site.fetch(URL) == PIXELS
    assert [path for _, path, _ in site.asked] == ["/a.png", "/b.png"]


@pytest.mark.parametrize(
    "answer, text",
    [
        ({"status": 404}, "its server answered 404, expected 200"),
        ({"status": 206}, "its server answered 206, expected 200"),
        ({"status": 302}, "its server answered 302, expected 200"),
        ({"content_type": "text/html"}, "is of type 'text/html', expected an image"),
        ({"content_type": "application/json"}, "is of type 'application/json', expected an image"),
        ({"body": bytes(MAX_BYTES + 1)}, f"is too large, expected at most {MAX_BYTES} bytes"),
    ],
)
def test_an_answer_that_is_no_image_is_refused(site, answer, text):
    site.answer = answer
    assert text in site.refusal(URL)


def test_an_image_of_the_largest_size_is_fetched(site):
    site.answer = {"body": bytes(MAX_BYTES), "content_type": "application/octet-stream"}
    assert len(site.fetch(URL)) == MAX_BYTES


def test_a_body_without_a_length_is_cut_off_at_the_limit(site):
    num_pieces = 0

    async def stream(request):
        nonlocal num_pieces
        answer = web.StreamResponse(headers={"content-type": "image/png"})
        await answer.prepare(request)
        while num_pieces < 64 and request.transport is not None:  # None: the client has left
            await answer.write(bytes(2**20))
            await anyio.sleep(0)  # a write to a closed connection returns without a turn
            num_pieces += 1

    site.handle = stream
    assert "is too large" in site.refusal(URL)
    assert 16 <= num_pieces < 40  # the rest was in buffers


def test_a_compressed_body_is_not_inflated(site):
    """A few kilobytes could inflate to gigabytes. The decoder refuses the bytes as no image."""
    site.answer = {"headers": {"content-encoding": "gzip"}}
    assert site.fetch(URL) == PIXELS


@pytest.mark.parametrize("moment", ["headers", "body", "redirects"])
def test_a_slow_server_is_given_up_after_the_time_for_all(site, moment):
    async def drip(request):
        if moment == "headers":
            await anyio.sleep(60)
        if moment == "redirects":
            await anyio.sleep(0.3)
            return web.Response(status=302, headers={"location": "/a.png"})
        answer = web.StreamResponse(headers={"content-type": "image/png"})
        await answer.prepare(request)
        while True:
            await answer.write(b"x")
            await anyio.sleep(0.05)

    site.handle = drip
    began = time.monotonic()
    text = site.refusal(URL, timeout_s=0.5)
    assert text == "`image` took too long to fetch, expected at most 0.5 s"
    assert time.monotonic() - began < 30


def test_a_body_that_breaks_off_is_refused(site):
    async def break_off(request):
        answer = web.StreamResponse(headers={"content-type": "image/png", "content-length": "99"})
        await answer.prepare(request)
        await answer.write(b"x")
        request.transport.abort()

    site.handle = break_off
    assert "cannot be fetched" in site.refusal(URL)


def test_a_cancelled_fetch_leaves_its_server_at_once(site):
    async def wait(request):
        await anyio.sleep(60)

    async def scenario():
        async with site.open() as fetcher:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(fetcher.fetch, URL, field="image"))
                await until(lambda: site.asked)
                tasks.cancel_scope.cancel()
            await until(lambda: site.gone)

    site.handle = wait
    anyio.run(scenario)
    assert len(site.asked) == 1


def test_a_few_images_are_fetched_at_once(site):
    """Each may take 16 MiB."""
    num_running = []

    async def wait(request):
        num_running.append(num_running[-1] + 1 if num_running else 1)
        await anyio.sleep(0.1)
        num_running.append(num_running[-1] - 1)
        return await site.give(request)

    async def scenario():
        async with site.open() as fetcher, anyio.create_task_group() as tasks:
            for _ in range(3 * MAX_FETCHES):
                tasks.start_soon(partial(fetcher.fetch, URL, field="image"))

    site.handle = wait
    anyio.run(scenario)
    assert len(site.asked) == 3 * MAX_FETCHES
    assert 1 < max(num_running) <= MAX_FETCHES
