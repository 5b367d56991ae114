"""Find and start the Chromium of tests and benchmarks."""

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
STEP_MS = 60_000  # timeout of each step on a page; generous, for busy machines


def find_chromium() -> str | None:
    """The path of Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name)) is not None), None)


def launch(playwright: Playwright, path: str) -> Browser:
    return playwright.chromium.launch(executable_path=path, args=list(FLAGS))
