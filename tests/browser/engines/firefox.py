"""Firefox, driven by WebDriver BiDi. Debian has no geckodriver for the older protocol."""

import base64
import itertools
import json
import re
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

from tests.browser.engines.engine import STEP_S

NAMES = ("firefox-esr", "firefox")
PREFERENCES = {
    "app.update.disabledForTesting": True,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "toolkit.telemetry.enabled": False,
}


class Firefox:
    """Raises RuntimeError if it does not start, or if a command fails."""

    def __init__(self, path: str) -> None:
        self._profile = tempfile.mkdtemp(prefix="firefox-")
        lines = (f"user_pref({json.dumps(k)}, {json.dumps(v)});" for k, v in PREFERENCES.items())
        (Path(self._profile) / "user.js").write_text("\n".join(lines))
        self._log = Path(self._profile) / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [path, "--headless", "--no-remote", "--profile", self._profile]
                + ["--remote-debugging-port", "0"],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self._ids = itertools.count()
        with ExitStack() as stack:
            stack.callback(self._end)
            address = f"{self._read_address()}/session"
            connection = connect(address, max_size=None, ping_interval=None, open_timeout=STEP_S)
            self._socket = stack.enter_context(connection)
            self._send("session.new", capabilities={})
            self._tab = self._send("browsingContext.getTree")["contexts"][0]["context"]
            self._stack = stack.pop_all()  # started: `close` ends it

    def navigate(self, url: str) -> None:
        self._send("browsingContext.navigate", context=self._tab, url=url, wait="complete")

    def evaluate(self, expression: str) -> str:
        answer = self._send(
            "script.evaluate",
            expression=expression,
            target={"context": self._tab},
            awaitPromise=True,
        )
        if answer["type"] == "exception":
            raise RuntimeError(answer["exceptionDetails"]["text"])
        return str(answer["result"]["value"])

    def perform_actions(self, actions: list[dict[str, Any]]) -> None:
        self._send("input.performActions", context=self._tab, actions=actions)

    def set_file(self, selector: str, path: str) -> None:
        locator = {"type": "css", "value": selector}
        found = self._send("browsingContext.locateNodes", context=self._tab, locator=locator)
        element = {"sharedId": found["nodes"][0]["sharedId"]}
        self._send("input.setFiles", context=self._tab, element=element, files=[path])

    def resize(self, width: int, height: int) -> None:
        viewport = {"width": width, "height": height}
        self._send("browsingContext.setViewport", context=self._tab, viewport=viewport)

    def screenshot(self) -> bytes:
        answer = self._send("browsingContext.captureScreenshot", context=self._tab)
        return base64.b64decode(answer["data"])

    def close(self) -> None:
        self._stack.close()

    def _read_address(self) -> str:
        deadline_s = time.monotonic() + STEP_S
        while time.monotonic() < deadline_s and self._process.poll() is None:
            log = self._log.read_text()
            if found := re.search(r"WebDriver BiDi listening on (ws://\S+)\n", log):
                return found[1]
            time.sleep(0.05)
        raise RuntimeError("Firefox did not start")

    def _send(self, method: str, **params: Any) -> Any:
        command = {"id": next(self._ids), "method": method, "params": params}
        self._socket.send(json.dumps(command))
        while True:
            answer = json.loads(self._socket.recv(STEP_S))
            if answer.get("id") == command["id"]:
                break  # what comes before it are events
        if answer["type"] == "error":
            raise RuntimeError(f"{method}: {answer['error']}: {answer['message']}")
        return answer["result"]

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)
