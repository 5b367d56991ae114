"""What the page says when a walk cannot go on: a plain line, what to do, and no close code."""

import re
from typing import get_args

import pytest
from playwright.sync_api import Page

from tests.browser.driver import texts_of, wait_for_text
from tests.browser.scripted.world import SESSION, ScriptedWorld, enter_scripted
from transport.wire.errors import ErrorCode

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("saved")]

CLOSE_CODE = re.compile(r"\b(10[01]\d|[34]\d{3})\b")
ADVICE = re.compile(r"walk|choose|wait|open|begin|again|look", re.IGNORECASE)
CLOSE_CODES = [None, *range(1000, 1016), 3000, 4000]


def test_each_cause_has_a_plain_line_and_something_to_do(page: Page) -> None:
    """Each close code, with each error before it and with none, on a socket that opened or not."""
    reasons = page.evaluate(
        """async ({ codes, errors }) => {
            const { explain } = await import("/static/session/close_reason.js");
            const reasons = [];
            for (const code of codes)
                for (const name of errors)
                    for (const opened of [true, false]) {
                        const content = `closed with code 1012: ${name}`;
                        const error = name === null ? null : { code: name, content };
                        const reason = "the rank died (1011)";
                        reasons.push(explain({ code, reason, error, opened }));
                    }
            return reasons;
        }""",
        {"codes": CLOSE_CODES, "errors": [None, *get_args(ErrorCode)]},
    )
    assert len({reason["cause"] for reason in reasons}) >= 15
    for reason in reasons:
        assert not CLOSE_CODE.search(f"{reason['title']} {reason['hint']} {reason['detail']}")
        assert ADVICE.search(reason["hint"]), reason
        assert reason["hint"].endswith((".", "?"))
        assert len(reason["title"]) < 40


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("1012", ""),
        ("code 1006", ""),
        ("the rank died (1012)", "the rank died"),
        ("the session was open for 1010 s", "the session was open for 1010 s"),
        ("expected 1008 chunks", "expected 1008 chunks"),
    ],
)
def test_only_close_codes_are_left_out(page: Page, text: str, detail: str) -> None:
    shown = page.evaluate(
        """async (reason) => {
            const { explain } = await import("/static/session/close_reason.js");
            return explain({ code: 1012, reason, error: null, opened: true }).detail;
        }""",
        text,
    )
    assert shown == detail


@pytest.mark.parametrize(
    ("code", "reason", "text"),
    [
        (1012, "1012: service restart", "The world is restarting. Your walk goes on in a moment."),
        (1001, "1001", "The server went away. Your walk goes on in a moment."),
        (1006, "", "The connection was lost. Your walk goes on in a moment."),
        (1013, "1013", "Every world is taken. Your walk goes on in a moment."),
    ],
)
def test_a_walk_that_goes_on_says_why_in_one_line(
    page: Page, code: int, reason: str, text: str
) -> None:
    """The toast of a loss: the next socket stays without an answer."""
    world = enter_scripted(page)
    world.close(code, reason)
    world.wait_for_init(2)
    assert page.inner_text("#toast") == text
    assert not CLOSE_CODE.search(page.inner_text("body"))


def test_a_server_that_restarts_is_told_from_the_first_word_to_the_last(page: Page) -> None:
    """It says so, closes, and knows the walk no more; the next walk is announced."""
    world = enter_scripted(page)
    world.send({"type": "reconnect", "reason": "code 1012"})
    wait_for_text(page, "toast", "This server goes away, and another one takes over.")
    world.close(1012, "1012")
    world.wait_for_init(2)
    world.send({"type": "error", "code": "session_gone", "content": "1012: no such session"})
    wait_for_text(page, "card-retry", "A new walk from the same picture in")
    assert "That world is gone" in texts_of(page, "card-title")
    for element in ("toast", "card-title", "card-text", "card-detail", "card-retry"):
        assert not [text for text in texts_of(page, element) if CLOSE_CODE.search(text)]


def test_the_page_says_when_it_has_stopped_trying(page: Page) -> None:
    page.evaluate(
        """() => {
            const { setTimeout } = window;
            window.setTimeout = (run, ms) => setTimeout(run, Math.min(ms, 20));
        }"""
    )
    page.route_web_socket("**/v1/realtime_video/generate", lambda socket: socket.close(code=1001))
    page.click("#enter")
    page.wait_for_selector("text=This page has stopped trying.")
    assert page.is_visible("#again")


def test_a_refused_event_is_no_reason_of_a_later_end(page: Page) -> None:
    """No frame comes between them: the world rests."""
    world = enter_scripted(page)
    page.fill("#live-prompt", "a hill")
    page.press("#live-prompt", "Enter")
    event_id = world.wait_for_event("prompt")["event_id"]
    world.send({"type": "paused", "reason": "idle"})
    text = "the prompt stays as it was"
    world.send({"type": "error", "code": "refused", "content": text, "event_id": event_id})
    wait_for_text(page, "toast", text)
    world.close(1006)
    assert "resume" in world.wait_for_init(2)


def test_a_refused_event_does_not_end_a_world_that_opens(page: Page) -> None:
    """Its first keys are sent before its first frame."""
    world = ScriptedWorld(page)
    page.click("#enter")
    world.wait_for_init(1)
    world.send(SESSION, {"type": "error", "code": "invalid", "content": "not now", "event_id": 1})
    wait_for_text(page, "toast", "not now")
    world.play(world_index=0)
    assert page.evaluate("lingbot.state") == "playing"
