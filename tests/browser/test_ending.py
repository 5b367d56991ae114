"""How a walk ends, what is said of it, and when another one begins by itself."""

from collections.abc import Callable

import pytest
from msgspec import msgpack
from playwright.sync_api import Page, WebSocketRoute

from tests.browser.stage import SOCKET, Relay, answer_init, enter, wait_until_playing

pytestmark = pytest.mark.browser

Welcome = Callable[[WebSocketRoute], None]


def welcome(page: Page, *first: Welcome) -> list[WebSocketRoute]:
    """These have the first sockets, and the server the others; all of them, as they come."""
    sockets: list[WebSocketRoute] = []

    def take(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        if len(sockets) <= len(first):
            first[len(sockets) - 1](socket)
        else:
            socket.connect_to_server()

    page.route_web_socket(SOCKET, take)
    return sockets


def closes(code: int, reason: str = "") -> Welcome:
    """One that takes an init and ends."""
    return lambda socket: socket.on_message(lambda data: socket.close(code=code, reason=reason))


def wait_for_the_next(page: Page) -> None:
    """Until another walk has begun by itself."""
    page.wait_for_function("lingbot.state === 'playing' && lingbot.stats.framesShown > 0")


def read_card(page: Page) -> dict[str, str]:
    """What the card says at the end of a walk, which may not last."""
    card: dict[str, str] = page.wait_for_function(
        """() => lingbot.state === "ended" && Object.fromEntries(
            ["title", "text", "said", "next"].map(
                (part) => [part, document.getElementById(`card-${part}`).innerText],
            ),
        )"""
    ).json_value()
    return card


def test_a_walk_that_is_over_is_shown_to_its_last_frame(page: Page) -> None:
    def limit(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def forward(data: str | bytes) -> None:
            assert isinstance(data, bytes)
            message = msgpack.decode(data)
            # Two chunks want no ack, and one sent to a socket that is closed is a complaint.
            if message["type"] == "init":
                server.send(msgpack.encode(message | {"max_chunks": 2}))

        socket.on_message(forward)

    welcome(page, limit)
    page.click("#enter")
    card = read_card(page)
    assert card["title"] == "The walk is over"
    assert card["next"] == "", "it was not lost"
    stats = page.evaluate("lingbot.stats")
    assert stats["framesShown"] == stats["framesReceived"] > 0
    page.click("#back")
    assert page.is_visible("#enter")


@pytest.mark.parametrize(
    ("code", "reason", "title"),
    [
        (1001, "the server is stopping", "The server went away"),
        (1006, "", "The connection was lost"),
        (1012, "the rank died", "The world is restarting"),
        (1013, "every slot is taken", "Every world is taken"),
    ],
)
def test_a_passing_end_is_explained_and_another_walk_begins(
    page: Page, code: int, reason: str, title: str
) -> None:
    sockets = welcome(page, closes(code, reason))
    page.click("#enter")
    card = read_card(page)
    assert card["title"] == title
    assert card["said"].lower() == reason
    assert card["next"] == "A new walk from the same picture in 1 s (try 1 of 8)."
    wait_for_the_next(page)
    assert len(sockets) == 2


@pytest.mark.parametrize(
    ("code", "reason", "title"),
    [
        (1008, "no", "The server refused this world"),
        (1009, "9 MiB", "That was too large"),
        (1011, "", "Something broke in the server"),
    ],
)
def test_another_end_is_explained_and_one_may_walk_again(
    page: Page, code: int, reason: str, title: str
) -> None:
    sockets = welcome(page, closes(code, reason))
    page.click("#enter")
    card = read_card(page)
    assert card["title"] == title
    assert card["said"].lower() == reason.lower()
    assert card["next"] == ""
    page.wait_for_timeout(1500)  # longer than the first try would wait
    assert len(sockets) == 1, "nobody asked for it"
    page.click("#again")
    wait_until_playing(page)


@pytest.mark.parametrize(
    ("code", "title", "passing"),
    [
        ("busy", "Every world is taken", True),
        ("world_lost", "The world is restarting", True),
        ("internal", "Something broke in the server", False),
        ("too_large", "That was too large", False),
        ("timeout", "The server gave up waiting", False),
        ("invalid_field", "The server refused this world", False),
    ],
)
def test_a_refusal_is_explained_before_any_close(
    page: Page, code: str, title: str, passing: bool
) -> None:
    answer_init(page, {"type": "error", "code": code, "content": "so it is"})
    page.click("#enter")
    card = read_card(page)
    assert card["title"] == title
    assert card["said"] == "So it is"
    assert (card["next"] != "") == passing


def test_a_connection_that_drops_in_mid_walk_comes_back_as_it_was_set(page: Page) -> None:
    relay = Relay(page)
    enter(page)
    page.click("[popovertarget=settings]")
    page.select_option("#live-format", "webp")
    page.keyboard.press("Escape")
    page.keyboard.down("w")
    page.wait_for_function("lingbot.stats.codec === 'webp'")
    relay.sockets[0].close(code=1006)
    assert read_card(page)["title"] == "The connection was lost"
    assert page.locator("[aria-pressed=true]").count() == 0, "a key of the walk before"
    wait_for_the_next(page)
    page.keyboard.down("w")  # the keyboard repeats
    page.wait_for_function("lingbot.stats.applied.actions.every((keys) => keys.join() === 'w')")
    assert relay.codecs[-1] == "webp"
    assert not page.is_visible("#card")


def test_tries_grow_rarer_and_a_person_may_stop_them(page: Page) -> None:
    busy = closes(1013, "every slot is taken")
    sockets = welcome(page, busy, busy, busy)
    page.click("#enter")
    page.wait_for_selector("text=in 4 s (try 3 of 8)")
    page.wait_for_selector("text=in 3 s (try 3 of 8)")
    page.click("#back")
    assert page.is_visible("#enter")
    page.click("#enter")  # a fourth, which a try that goes on would disturb
    wait_until_playing(page)
    page.wait_for_timeout(4000)
    assert len(sockets) == 4
    assert page.evaluate("lingbot.state") == "playing"


def test_tries_come_to_an_end(page: Page) -> None:
    tried = page.evaluate(
        """async () => {
            const { Reopening } = await import("/static/session/reconnect.js");
            const setTimeout = window.setTimeout;
            window.setTimeout = (run) => setTimeout(run); // a second is nothing
            const waits = [];
            const reopening = new Reopening({
                onTick: (seconds, nth) => (waits[nth - 1] ??= seconds),
                onOpen: () => reopening.start(100),
            });
            reopening.start(0);
            await new Promise((resolve) => setTimeout(resolve, 1000));
            const all = [...waits];
            reopening.start(20_000); // after a walk that lasted, they count anew
            await new Promise((resolve) => setTimeout(resolve, 1000));
            window.setTimeout = setTimeout;
            return { all, again: waits.length };
        }"""
    )
    assert tried == {"all": [1, 2, 4, 8, 8, 8, 8, 8], "again": 8}


def test_one_may_walk_again_at_once(page: Page) -> None:
    busy = closes(1013, "every slot is taken")
    sockets = welcome(page, busy, busy, busy)
    page.click("#enter")
    page.wait_for_selector("text=in 3 s (try 3 of 8)")
    page.click("#again")
    wait_until_playing(page)
    assert len(sockets) == 4
