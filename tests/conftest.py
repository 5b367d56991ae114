"""One real server for all tests that want one: `serve run` on a copy of the shipped config."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 180


@dataclass(frozen=True)
class Server:
    http: str
    ws: str
    pid: int  # of `serve run`; the cluster's processes descend from it

    def descendants(self, name: str) -> list[int]:
        """Processes of this cluster whose command line has ``name`` in it."""
        parents, found = {self.pid}, []
        for path in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue  # it ended meanwhile
            if parent in parents:
                parents.add(int(path.name))
                if name in command:
                    found.append(int(path.name))
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    port = config["http_options"]["port"] = free_port()
    path = folder / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config))
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("serve"), "run", path],
            cwd=ROOT,
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": "local"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process, folder / "log")
        yield Server(url, f"ws://127.0.0.1:{port}/v1/realtime_video/generate", process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the server did not come up:\n{log.read_text()[-5000:]}")


@pytest.fixture(autouse=True)
def no_cluster(request, monkeypatch):
    """A test that starts a cluster says so."""
    if {"cluster", "browser"} & set(request.keywords):
        return
    import ray

    def refuse(*args, **kwargs):
        raise RuntimeError("this test started a cluster; mark it `cluster`")

    monkeypatch.setattr(ray, "init", refuse)
