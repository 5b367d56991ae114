"""A real Chromium, and the page in it."""

import os
import shutil
from collections.abc import Iterator
from typing import Protocol
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, ViewportSize, sync_playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
VIEWPORT = ViewportSize(width=1280, height=800)
STEP_MS = 60_000  # the most that anything awaited here may take on a busy machine


class Server(Protocol):
    http: str  # "http://127.0.0.1:PORT"


@pytest.fixture(scope="session")
def chromium() -> str:
    """Its path. A machine without one skips the tests that want it, and a CI fails them."""
    for name in CHROMIUM:
        if (path := shutil.which(name)) is not None:
            return path
    reason = "needs Chromium: apt-get install chromium"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)  # a CI that skips its browser tests says nothing
    pytest.skip(reason)


@pytest.fixture(scope="module")  # no longer: until it ends, no other test can run an event loop
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
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
