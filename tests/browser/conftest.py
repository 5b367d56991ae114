"""A real Chromium, and the page in it."""

import os
from collections.abc import Iterator
from typing import Protocol
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from benchmarks.chromium import MISSING, STEP_MS, VIEWPORT, find_chromium, launch


class Server(Protocol):
    http: str  # "http://127.0.0.1:PORT"


@pytest.fixture(scope="session")
def chromium() -> str:
    """Its path. A machine without one skips the tests that want it, and a CI fails them."""
    if (path := find_chromium()) is not None:
        return path
    if os.environ.get("CI") == "true":
        pytest.fail(MISSING)  # a CI that skips its browser tests says nothing
    pytest.skip(MISSING)


@pytest.fixture(scope="module")  # no longer: until it ends, no other test can run an event loop
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright, chromium)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: str, browser: Browser, server: Server) -> Iterator[Page]:
    """The start screen. Afterwards: nothing in the console, nothing from elsewhere.

    `chromium` comes first, so that no server is started for a browser that is not there.
    """
    context = browser.new_context(viewport=VIEWPORT)
    context.set_default_timeout(STEP_MS)
    page = context.new_page()
    complaints: list[str] = []
    hosts: set[str] = set()

    def listen(message: ConsoleMessage) -> None:
        if message.type == "error":
            complaints.append(message.text)

    page.on("console", listen)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.on("websocket", lambda socket: hosts.add(urlsplit(socket.url).netloc))
    page.goto(server.http)
    page.wait_for_selector("#enter:enabled")
    page.evaluate("lingbot.lastFrame()")  # its worker is up: no request is under way any more
    yield page
    context.close()
    assert complaints == []
    assert hosts <= {urlsplit(server.http).netloc, ""}, "a request left the server"  # "": blob:
