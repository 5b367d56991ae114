"""A walk in the pocket world whose server is restarted."""

from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser, Page

from benchmarks.chromium import VIEWPORT
from benchmarks.local_server import local_server
from benchmarks.page import enter
from tests.browser.cuttable import make_cuttable
from tests.browser.driver import play_until

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("restart")]

START_MS = 240_000  # the longest start of a server, on a busy machine


def walk_and_keep(page: Page) -> int:
    """Walk for a while, and keep the world. Returns the index of its newest chunk."""
    page.keyboard.down("w")
    play_until(page, 6)
    page.evaluate("lingbot.keep()")
    index = page.evaluate("lingbot.stats.worldChunkIndex")
    assert isinstance(index, int)
    return index


@pytest.mark.timeout(900)
def test_a_walk_goes_on_after_its_server_was_restarted(browser: Browser) -> None:
    page = browser.new_page(viewport=VIEWPORT)
    page.set_default_timeout(START_MS)
    with ExitStack() as stack:
        with local_server() as first:
            address = stack.enter_context(make_cuttable(first.http))
            page.goto(address.http)
            page.wait_for_selector("#enter:enabled")
            enter(page)
            index = walk_and_keep(page)
            address.stop()
        page.wait_for_function("lingbot.state !== 'playing'")
        address.move(stack.enter_context(local_server()).http)
        # The page has tried for as long as the server was away, or has given up.
        page.wait_for_function(
            "lingbot.state === 'playing' || document.body.dataset.screen === 'ended'"
        )
        if page.is_visible("#again"):
            page.click("#again")
        play_until(page, index)
        assert page.evaluate("lingbot.stats.worldChunkIndex") < index + 20, "another world"
        page.evaluate("lingbot.keep()")
        page.reload()
        page.wait_for_selector("#continue:visible")
        page.click("#continue")
        play_until(page, index)
        page.close()
