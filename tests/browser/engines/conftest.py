"""The page in three engines, in front of a world of scripted frames."""

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec.structs import replace
from playwright.sync_api import sync_playwright

from benchmarks.chromium import find_chromium, launch
from tests.browser.engines.chromium import Chromium
from tests.browser.engines.engine import Engine
from tests.browser.engines.firefox import NAMES, Firefox
from tests.browser.engines.webkit import BROWSERS, WebKit
from tests.browser.fake_server import FPS, serve_page
from tests.transport.fake_world import FakeWorld
from transport.codecs.payload import Frames

ENGINES = {  # and what Debian calls their packages
    "chromium": "chromium",
    "firefox": "firefox-esr",
    "webkit": "webkit2gtk-driver xvfb",
}
WIDTH, HEIGHT = 208, 128


def paint(shape: tuple[int, ...], index: int) -> Frames:
    """Frames [T, H, W, 3] of one chunk: smooth colours that wander. `index` counts from 1."""
    num_frames, height, width, _ = shape
    times = (12 * index + np.arange(num_frames))[:, None, None] / 24
    rows, columns = np.mgrid[:height, :width] * np.array([3 / height, 5 / width])[:, None, None]
    waves = [np.sin(2 * np.pi * (times * 0.5 + columns + shift * rows)) for shift in (0, 0.5, 1)]
    return np.stack([(127 + 90 * wave).astype(np.uint8) for wave in waves], axis=-1)


@pytest.fixture(scope="module")
def server() -> Iterator[SimpleNamespace]:
    """The whole transport around a fake world: `.http` and `.world`."""
    world = FakeWorld(size=(WIDTH, HEIGHT))
    world.info = replace(world.info, fps=FPS)
    world.paint = paint
    with serve_page(world) as running:
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
