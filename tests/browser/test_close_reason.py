"""The end of a session, and the reason that the page shows for it."""

import pytest
from msgspec import msgpack
from playwright.sync_api import Page, WebSocketRoute

from benchmarks.page import wait_until_playing
from tests.browser.driver import read_card
from tests.browser.fake_server import answer_init, close_with, route_sockets

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]


def test_a_finished_session_is_shown_to_its_last_frame(page: Page) -> None:
    def limit(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def forward(data: str | bytes) -> None:
            assert isinstance(data, bytes)
            message = msgpack.decode(data)
            # Two chunks need no ack. An ack to a closed socket would be a console error.
            if message["type"] == "init":
                server.send(msgpack.encode(message | {"max_chunks": 2}))

        socket.on_message(forward)

    route_sockets(page, limit)
    page.click("#enter")
    card = read_card(page)
    assert card["title"] == "The walk is over"
    assert card["retry"] == "", "a finished session is not retried"
    stats = page.evaluate("lingbot.stats")
    assert stats["framesShown"] == stats["framesReceived"] > 0
    page.click("#back")
    assert page.is_visible("#enter")


@pytest.mark.parametrize(
    ("code", "reason", "title"),
    [
        (1008, "no", "The server refused this world"),
        (1009, "9 MiB", "That was too large"),
        (1011, "", "Something broke in the server"),
    ],
)
def test_a_final_end_is_explained_and_can_be_retried_by_hand(
    page: Page, code: int, reason: str, title: str
) -> None:
    sockets = route_sockets(page, close_with(code, reason))
    page.click("#enter")
    card = read_card(page)
    assert card["title"] == title
    assert card["detail"].lower() == reason.lower()
    assert card["retry"] == ""
    page.wait_for_timeout(1500)  # longer than the delay of a first attempt
    assert len(sockets) == 1, "a final end was retried"
    page.click("#again")
    wait_until_playing(page)


@pytest.mark.parametrize(
    ("code", "title", "is_transient"),
    [
        ("busy", "Every world is taken", True),
        ("world_lost", "The world is restarting", True),
        ("internal", "Something broke in the server", False),
        ("too_large", "That was too large", False),
        ("timeout", "The server gave up waiting", False),
        ("invalid_field", "The server refused this world", False),
    ],
)
def test_a_refusal_is_explained_before_the_socket_closes(
    page: Page, code: str, title: str, is_transient: bool
) -> None:
    answer_init(page, {"type": "error", "code": code, "content": "so it is"})
    page.click("#enter")
    card = read_card(page)
    assert card["title"] == title
    assert card["detail"] == "So it is"
    assert (card["retry"] != "") == is_transient
