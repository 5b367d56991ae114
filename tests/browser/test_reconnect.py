"""New walks that the page begins by itself; those that go on are in test_resume.py."""

import pytest
from playwright.sync_api import Page

from benchmarks.page import wait_until_playing
from tests.browser.driver import texts_of
from tests.browser.fake_server import close_with, route_sockets

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("server")]


def wait_for_reconnect(page: Page) -> None:
    """Wait until another session plays; unlike `wait_until_playing`, not stopped by an end."""
    page.wait_for_function("lingbot.state === 'playing' && lingbot.stats.framesShown > 0")


def click_at(page: Page, text: str, button: str) -> None:
    """Let the page click a button as soon as the card shows this text: it stands for a second."""
    page.evaluate(
        """([text, button]) => {
            const card = document.getElementById("card-retry");
            window.clicked = new Promise((resolve) => {
                const click = () => {
                    if (!card.textContent.includes(text)) return;
                    document.getElementById(button).click();
                    resolve();
                };
                new MutationObserver(click).observe(card, { childList: true });
            });
        }""",
        [text, button],
    )


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
    wait_for_reconnect(page)
    assert len(sockets) == 2
    assert title in texts_of(page, "card-title")
    assert [detail.lower() for detail in texts_of(page, "card-detail")] == [reason] * bool(reason)
    retry = texts_of(page, "card-retry")[0]
    assert retry == "A new walk from the same picture in 1 s (try 1 of 8)."


def test_attempts_back_off_and_stop_when_the_user_leaves(page: Page) -> None:
    busy = close_with(1013, "every slot is taken")
    sockets = route_sockets(page, busy, busy, busy)
    click_at(page, "in 3 s (try 3 of 8)", "back")
    page.click("#enter")
    page.evaluate("() => clicked")
    assert "in 4 s (try 3 of 8)" in texts_of(page, "card-retry")[-2]
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
            let waits, done;
            const reconnect = new Reconnect({
                onTick: (seconds, attempt) => (waits[attempt - 1] ??= seconds),
                onAttempt: () => reconnect.start(100) || done(),
            });
            const waitsAfter = async (playedMs) => {
                waits = [];
                await new Promise((resolve) => {
                    done = resolve;
                    reconnect.start(playedMs);
                });
                return waits;
            };
            const all = await waitsAfter(0);
            const again = await waitsAfter(20_000); // a session that lasted resets the attempts
            window.setTimeout = setTimeout;
            return [all, again];
        }"""
    )
    assert waited == [[1, 2, 4, 8, 8, 8, 8, 8]] * 2


def test_the_user_can_retry_at_once(page: Page) -> None:
    busy = close_with(1013, "every slot is taken")
    sockets = route_sockets(page, busy, busy, busy)
    click_at(page, "in 3 s (try 3 of 8)", "again")
    page.click("#enter")
    page.evaluate("() => clicked")
    wait_until_playing(page)
    assert len(sockets) == 4
