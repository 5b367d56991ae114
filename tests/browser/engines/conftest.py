"""The page in three engines, in front of a world of scripted frames."""

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from playwright.sync_api import sync_playwright

from benchmarks.chromium import find_chromium, launch
from tests.browser.engines.chromium import Chromium
from tests.browser.engines.engine import Engine
from tests.browser.engines.firefox import NAMES, Firefox
from tests.browser.engines.webkit import BROWSERS, WebKit
from tests.browser.painted_world import serve_painted_worlds

ENGINES = {  # and what Debian calls their packages
    "chromium": "chromium",
    "firefox": "firefox-esr",
    "webkit": "webkit2gtk-driver xvfb",
}


@pytest.fixture(scope="module")
def server() -> Iterator[SimpleNamespace]:
    with serve_painted_worlds() as running:
        yield running


def start(name: str, stack: ExitStack) -> Engine | None:
    """The engine, or None if this machine lacks it. `stack` ends it."""
    if name == "chromium" and (path := find_chromium()) is not None:
        browser = launch(stack.enter_context(sync_playwright()), path)
        stack.callback(browser.close)
        connection: Chromium | Firefox | WebKit = Chromium(browser)
    elif name == "firefox" and (path := next(filter(None, map(shutil.which, NAMES)), None)):
        connection = Firefox(path)
    elif name == "webkit" and (path := shutil.which("WebKitWebDriver")) and glob.glob(BROWSERS):
        if shutil.which("Xvfb") is None:
            return None
        connection = WebKit(path)
    else:
        return None
    stack.callback(connection.close)
    return Engine(name, connection)


@pytest.fixture(scope="module", params=ENGINES)
def browser_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with ExitStack() as stack:
        if (engine := start(request.param, stack)) is None:
            missing = f"needs {request.param}: apt-get install {ENGINES[request.param]}"
            if os.environ.get("CI") == "true":
                pytest.fail(missing)
            pytest.skip(missing)
        yield engine


@pytest.fixture
def engine(browser_engine: Engine, server: SimpleNamespace) -> Engine:
    """The start screen in each engine."""
    browser_engine.resize(1280, 800)
    browser_engine.navigate(server.http)
    browser_engine.wait_for("() => document.querySelector('#enter:enabled') !== null")
    return browser_engine
