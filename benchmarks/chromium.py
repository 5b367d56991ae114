"""The Chromium that tests and benchmarks drive: where it is, and how it is started."""

import shutil

from playwright.sync_api import Browser, Playwright, ViewportSize

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MISSING = "needs Chromium: apt-get install chromium"
VIEWPORT = ViewportSize(width=1280, height=800)
STEP_MS = 60_000  # the most that anything awaited in a page may take on a busy machine


def find_chromium() -> str | None:
    """Its path, where there is one."""
    return next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


def launch(playwright: Playwright, path: str) -> Browser:
    return playwright.chromium.launch(executable_path=path, args=list(FLAGS))
