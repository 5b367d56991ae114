"""WebKitGTK, driven by W3C WebDriver, on a display of its own. It speaks no WebDriver BiDi."""

import base64
import glob
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any

from benchmarks.local_server import free_port
from tests.browser.engines.engine import SIZE, STEP_S

BROWSERS = "/usr/lib/*/webkit2gtk-4*/MiniBrowser"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the field of an element, by the standard


class WebKit:
    """Raises RuntimeError if it does not start, or if a command fails."""

    def __init__(self, path: str) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            display = self._open_display()
            self._address = self._start_driver(path, display)
            self._session = self._open_session()
            self._decoration = self._measure_decoration()
        except BaseException:
            self._end()
            raise

    def navigate(self, url: str) -> None:
        self._send("POST", "/url", url=url)

    def evaluate(self, expression: str) -> str:
        script = f"""
            const done = arguments[arguments.length - 1];
            ({expression}).then((value) => done([value]), (error) => done([null, String(error)]));
        """
        value, *errors = self._send("POST", "/execute/async", script=script, args=[])
        if errors:
            raise RuntimeError(errors[0])
        return str(value)

    def perform_actions(self, actions: list[dict[str, Any]]) -> None:
        self._send("POST", "/actions", actions=actions)

    def set_file(self, selector: str, path: str) -> None:
        found = self._send("POST", "/element", using="css selector", value=selector)
        self._send("POST", f"/element/{found[ELEMENT]}/value", text=path)

    def resize(self, width: int, height: int) -> None:
        across, along = self._decoration
        self._send("POST", "/window/rect", width=width + across, height=height + along)
        deadline_s = time.monotonic() + STEP_S
        while True:
            inner = self._inner_size()
            if inner[0] >= width and inner[1] == height:  # a window is as wide as its tools
                return
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the page has {inner}, not {width}x{height}")
            time.sleep(0.1)

    def screenshot(self) -> bytes:
        return base64.b64decode(self._send("GET", "/screenshot"))

    def close(self) -> None:
        self._send("DELETE", "")
        self._end()

    def _inner_size(self) -> tuple[int, int]:
        size = self.evaluate("(async () => JSON.stringify([innerWidth, innerHeight]))()")
        width, height = json.loads(size)
        return width, height

    def _measure_decoration(self) -> tuple[int, int]:
        """How much wider and higher a window is than its page."""
        window = self._send("GET", "/window/rect")
        width, height = self._inner_size()
        return window["width"] - width, window["height"] - height

    def _open_display(self) -> str:
        read, write = os.pipe()
        size = f"{2 * SIZE[0]}x{2 * SIZE[1]}x24"
        command = ["Xvfb", "-displayfd", str(write), "-screen", "0", size, "-nolisten", "tcp"]
        self._start(command, pass_fds=(write,))
        os.close(write)
        with os.fdopen(read) as pipe:
            return f":{pipe.readline().strip()}"

    def _start_driver(self, path: str, display: str) -> str:
        port = free_port()
        environment = os.environ | {"DISPLAY": display, "GDK_BACKEND": "x11"}
        self._start([path, f"--port={port}", "--host=127.0.0.1"], env=environment)
        return f"http://127.0.0.1:{port}/session"

    def _open_session(self) -> str:
        browser = {"binary": glob.glob(BROWSERS)[0], "args": ["--automation"]}
        capabilities = {"alwaysMatch": {"webkitgtk:browserOptions": browser}}
        self._session = ""
        deadline_s = time.monotonic() + STEP_S
        while True:
            try:
                answer = self._send("POST", "", capabilities=capabilities)
            except urllib.error.URLError:  # the driver does not listen yet
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.1)
            else:
                break
        self._session = f"/{answer['sessionId']}"
        limit_ms = round(1000 * STEP_S)
        self._send("POST", "/timeouts", script=limit_ms, pageLoad=limit_ms)
        return self._session

    def _send(self, method: str, path: str, **body: Any) -> Any:
        request = urllib.request.Request(
            f"{self._address}{self._session}{path}",
            json.dumps(body).encode() if method == "POST" else None,
            {"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=2 * STEP_S) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(f"{method} {path}: {error.read().decode()}") from None

    def _start(self, command: list[str], **options: Any) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._processes.append(subprocess.Popen(command, **quiet, **options))

    def _end(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
            process.wait()
