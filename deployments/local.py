"""A server of one's own, for tests and benchmarks: ``serve run`` of the shipped config."""

import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Server:
    address: str  # host:port
    process: subprocess.Popen[bytes]  # the cluster's processes descend from it
    log: Path

    @property
    def http(self) -> str:
        return f"http://{self.address}"

    @property
    def ws(self) -> str:
        return f"ws://{self.address}/v1/realtime_video/generate"

    def descendants(self, name: str) -> list[int]:
        """Processes of this cluster whose command line has ``name`` in it."""
        parents, found = {self.process.pid}, []
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


@contextmanager
def local_server() -> Iterator[Server]:
    """Start the stack on a free port of loopback, wait until a world can be opened, end it.

    Raises RuntimeError, with the end of the log, if it does not come up.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = msgspec.yaml.decode((ROOT / "serve_config.yaml").read_bytes())
        config["http_options"]["port"] = port = free_port()
        path = Path(folder) / "serve_config.yaml"
        path.write_bytes(msgspec.yaml.encode(config))
        server = start(path, f"127.0.0.1:{port}", log=Path(folder) / "log")
        try:
            wait_until_ready(server)
            yield server
        finally:
            server.process.send_signal(signal.SIGINT)
            try:
                server.process.wait(STOP_TIMEOUT_S)
            finally:
                server.process.kill()


def start(config: Path, address: str, *, log: Path) -> Server:
    # A cluster of its own, whatever else runs here.
    environment = ["env", "RAY_AUTH_MODE=disabled", "RAY_ADDRESS=local"]
    serve = str(Path(sys.executable).with_name("serve"))
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*environment, serve, "run", str(config)],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Server(address, process, log)


def wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.http}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the server did not come up:\n{server.log.read_text()[-5000:]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
