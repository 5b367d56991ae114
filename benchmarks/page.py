"""Steps on the page that tests and benchmarks share."""

from playwright.sync_api import Page


def enter(page: Page) -> None:
    """Enter a world from the start screen. Raises RuntimeError like `wait_until_playing`."""
    page.click("#enter")
    wait_until_playing(page)


def wait_until_playing(page: Page) -> None:
    """Wait for the first frame. Raises RuntimeError, with the card's text, if the session ends."""
    page.wait_for_function("lingbot.stats?.framesShown > 0 || lingbot.state === 'ended'")
    if page.evaluate("lingbot.state") != "playing":
        raise RuntimeError(f"the session did not open: {page.inner_text('#card')}")
