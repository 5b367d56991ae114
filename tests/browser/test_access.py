"""The page of a server that asks for a token, in a real Chromium."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page

from benchmarks.chromium import STEP_MS, VIEWPORT
from tests.browser.driver import read_card
from tests.transport.conftest import FakeWorld
from transport.access import Access
from transport.access_config import AccessConfig
from transport.app import build_app
from transport.tokens import Tokens

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

ALICE = "alice-0123456789abcdef"


def write(file: Path, *tokens: str) -> None:
    file.write_text(json.dumps([{"name": token[:5], "token": token} for token in tokens]))


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    file = tmp_path / "tokens.yaml"
    write(file, ALICE)
    return file


@pytest.fixture
def address(tokens_file: Path) -> Iterator[str]:
    access = Access(tokens=Tokens(AccessConfig(tokens_file=str(tokens_file))))
    app = build_app(FakeWorld(), access=access)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, ws="websockets-sansio", log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def tab(chromium: str, browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport=VIEWPORT)
    context.set_default_timeout(STEP_MS)
    yield context.new_page()
    context.close()


def test_a_page_without_a_token_gets_a_reason(tab: Page, address: str) -> None:
    answer = tab.goto(address)
    assert answer is not None and answer.status == 401
    assert "a token is required" in tab.inner_text("body")


def test_a_page_walks_by_the_token_of_its_address_until_it_is_withdrawn(
    tab: Page, address: str, tokens_file: Path
) -> None:
    refused: list[Any] = []
    tab.on("response", lambda each: refused.append(each.url) if each.status == 401 else None)
    tab.goto(f"{address}/?token={ALICE}")
    tab.wait_for_selector("#enter:enabled")
    assert tab.url == f"{address}/", "a token stays in no history"
    assert ALICE not in tab.evaluate("document.cookie + document.referrer + location.href")
    (cookie,) = tab.context.cookies()
    assert (cookie["value"], cookie["httpOnly"], cookie["sameSite"]) == (ALICE, True, "Lax")
    tab.click("#enter")
    tab.wait_for_function("lingbot.state === 'playing' && lingbot.stats.chunkIndex >= 2")
    tab.reload()
    tab.wait_for_selector("#enter:enabled")
    tab.click("#enter")
    tab.wait_for_function("lingbot.state === 'playing'")
    assert refused == []
    write(tokens_file, "other-0123456789abcdef")
    card = read_card(tab)
    assert card["title"] == "This page needs a token"
    assert card["detail"].lower() == "the token has been withdrawn"
    assert card["retry"] == ""


def test_a_page_of_another_server_cannot_use_the_cookie(tab: Page, address: str) -> None:
    """Cookies do not know ports: a browser sends this one to every server of the host."""
    tab.goto(f"{address}/?token={ALICE}")
    tab.wait_for_selector("#enter:enabled")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer(connection: socket.socket) -> None:
            with connection, suppress(OSError):  # the browser has closed it
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")

        def accept() -> None:
            with suppress(OSError):  # the listener is closed
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=answer, args=[connection], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        tab.goto(f"http://127.0.0.1:{port}/")
    url = address.replace("http", "ws") + "/v1/realtime_video/generate"
    code = tab.evaluate(
        """url => new Promise((resolve) => {
            const socket = new WebSocket(url);
            socket.onclose = (event) => resolve([event.code, event.reason.slice(0, 10)]);
        })""",
        url,
    )
    assert code == [1008, "the origin"]
