"""A real Chromium, and the page in it."""

import os
from collections.abc import Iterator
from typing import Protocol
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Route, sync_playwright

from benchmarks.chromium import MISSING, STEP_MS, VIEWPORT, find_chromium, launch
from tests.browser.driver import NOTE_TEXTS


class Server(Protocol):
    http: str  # "http://127.0.0.1:PORT"


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Chromium. Without one, tests that need it fail in CI and skip elsewhere."""
    if (path := find_chromium()) is not None:
        return path
    if os.environ.get("CI") == "true":
        pytest.fail(MISSING)
    pytest.skip(MISSING)


# Not of the session: while Playwright runs, no other test can run an event loop.
@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright, chromium)
        yield browser
        browser.close()


def decode_patiently(route: Route) -> None:
    """Give a decoder a minute for a frame: on a busy machine one waits 2 s for the processor."""
    answer = route.fetch()
    before, limit, after = answer.text().partition("DECODE_TIMEOUT_MS = 2000;")
    assert limit
    route.fulfill(response=answer, body=f"{before}DECODE_TIMEOUT_MS = 60_000;{after}")


@pytest.fixture
def page(chromium: str, browser: Browser, server: Server) -> Iterator[Page]:
    """The start screen. Teardown asserts an error-free console and requests to our server only.

    `chromium` comes first, so that a missing browser skips the test before a server starts.
    """
    context = browser.new_context(viewport=VIEWPORT)
    context.set_default_timeout(STEP_MS)
    context.add_init_script(NOTE_TEXTS)
    page = context.new_page()
    errors: list[str] = []
    hosts: set[str] = set()

    def listen(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text)

    def note_failure(request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # a page that reloads gives up its icon
            errors.append(f"failed: {request.url}")

    page.on("console", listen)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", note_failure)
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.on("websocket", lambda socket: hosts.add(urlsplit(socket.url).netloc))
    page.route("**/player/h264.js", decode_patiently)
    page.goto(server.http)
    page.wait_for_selector("#enter:enabled")
    page.evaluate("lingbot.lastFrame()")  # the worker answers, so no request is under way
    page.unroute("**/player/h264.js")  # without routes, the browser has its cache
    yield page
    context.close()
    assert errors == []
    assert hosts <= {urlsplit(server.http).netloc, ""}, "a request to another host"  # "": blob:
