"""The server and the world of the tests here."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from playwright.sync_api import Page

from tests.browser.scripted.world import ScriptedWorld, enter_scripted, serve_worlds


@pytest.fixture(scope="module")
def server() -> Iterator[SimpleNamespace]:
    with serve_worlds() as server:
        yield server


@pytest.fixture
def world(page: Page) -> ScriptedWorld:
    """The page plays the first chunk of a scripted world."""
    return enter_scripted(page)
