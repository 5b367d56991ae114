"""New walks that the page begins by itself; those that go on are in test_resume.py."""

import pytest
from playwright.sync_api import Page

from benchmarks.page import wait_until_playing
from tests.browser.driver import read_card
from tests.browser.fake_server import close_with, route_sockets

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("server")]


def wait_for_reconnect(page: Page) -> None:
    """Wait until another session plays; unlike `wait_until_playing`, not stopped by an end."""
    page.wait_for_function("lingbot.state === 'playing' && lingbot.stats.framesShown > 0")


@pytest.mark.parametrize(
    ("code", "reason", "title"),
    [
        (1001, "the server is stopping", "The server went away"),
        (1006, "", "The connection was lost"),
        (1012, "the rank died", "The world is restarting"),
        (1013, "every slot is taken", "Every world is taken"),
    ],
)
def test_a_transient_end_is_explained_and_retried(
    page: Page, code: int, reason: str, title: str
) -> None:
    sockets = route_sockets(page, close_with(code, reason))
    page.click("#enter")
    card = read_card(page)
    assert card["title"] == title
    assert card["detail"].lower() == reason
    assert card["retry"] == "A new walk from the same picture in 1 s (try 1 of 8)."
    wait_for_reconnect(page)
    assert len(sockets) == 2


def test_attempts_back_off_and_stop_when_the_user_leaves(page: Page) -> None:
    busy = close_with(1013, "every slot is taken")
    sockets = route_sockets(page, busy, busy, busy)
    page.click("#enter")
    page.wait_for_selector("text=in 4 s (try 3 of 8)")
    page.wait_for_selector("text=in 3 s (try 3 of 8)")
    page.click("#back")
    assert page.is_visible("#enter")
    page.click("#enter")  # the fourth socket; an attempt still scheduled would open a fifth
    wait_until_playing(page)
    page.wait_for_timeout(4000)
    assert len(sockets) == 4
    assert page.evaluate("lingbot.state") == "playing"


def test_attempts_are_limited_and_reset_by_a_long_session(page: Page) -> None:
    waited = page.evaluate(
        """async () => {
            const { Reconnect } = await import("/static/session/reconnect.js");
            const setTimeout = window.setTimeout;
            window.setTimeout = (run) => setTimeout(run); // fires at once
            const waits = [];
            const reconnect = new Reconnect({
                onTick: (seconds, attempt) => (waits[attempt - 1] ??= seconds),
                onAttempt: () => reconnect.start(100),
            });
            reconnect.start(0);
            await new Promise((resolve) => setTimeout(resolve, 1000));
            const all = [...waits];
            reconnect.start(20_000); // a session that lasted resets the attempts
            await new Promise((resolve) => setTimeout(resolve, 1000));
            window.setTimeout = setTimeout;
            return { all, again: waits.length };
        }"""
    )
    assert waited == {"all": [1, 2, 4, 8, 8, 8, 8, 8], "again": 8}


def test_the_user_can_retry_at_once(page: Page) -> None:
    busy = close_with(1013, "every slot is taken")
    sockets = route_sockets(page, busy, busy, busy)
    page.click("#enter")
    page.wait_for_selector("text=in 3 s (try 3 of 8)")
    page.click("#again")
    wait_until_playing(page)
    assert len(sockets) == 4
