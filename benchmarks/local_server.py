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
from typing import Any

import msgspec

from deployments.proxy import HOOK

ROOT = Path(__file__).parents[1]
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Server:
    address: str  # host:port
    process: subprocess.Popen[bytes]  # the cluster's processes descend from it
    folder: Path  # of all files that it leaves

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def metrics_targets(self) -> Path:
        """What Ray writes for Prometheus's service discovery."""
        return self.folder / "ray/prom_metrics_service_discovery.json"

    @property
    def http(self) -> str:
        return f"http://{self.address}"

    @property
    def ws(self) -> str:
        return f"ws://{self.address}/v1/realtime_video/generate"

    def descendants(self, name: str) -> list[int]:
        """Processes of this cluster whose command line has ``name`` in it."""
        parents, commands = {}, {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                stat = (path / "stat").read_text()
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue  # it ended meanwhile
            parents[int(path.name)] = int(stat.rpartition(")")[2].split()[1])
            commands[int(path.name)] = command

        def ours(process: int) -> bool:
            while process in parents and process != self.process.pid:
                process = parents[process]
            return process == self.process.pid

        return [
            process for process, command in commands.items() if name in command and ours(process)
        ]


@contextmanager
def local_server(
    args: dict[str, Any] | None = None, *, num_ranks: int = 1, wait: bool = True
) -> Iterator[Server]:
    """Start the stack on a free port of loopback, wait until a world can be opened, end it.

    It runs the shipped config, with these of its ``args`` replaced and a group of so many ranks.
    Raises RuntimeError, with the end of the log, if it does not come up; without ``wait`` it may.
    """
    # A late process of the cluster may still write a file while the folder goes. It lies in /tmp,
    # as Ray's own would: paths of sockets must be short.
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        config = msgspec.yaml.decode((ROOT / "serve_config.yaml").read_bytes())
        config["http_options"]["port"] = port = free_port()
        (application,) = config["applications"]
        application["args"] |= args or {}
        (group,) = (d for d in application["deployments"] if d["name"] == "WorldGroup")
        # Together they ask for what one asks for: this machine's cores may be fewer than the ranks.
        (bundle,) = group["placement_group_bundles"]
        share = {resource: amount / num_ranks for resource, amount in bundle.items()}
        group["placement_group_bundles"] = [share] * num_ranks
        path = Path(folder) / "serve_config.yaml"
        path.write_bytes(msgspec.yaml.encode(config))
        server = start(path, f"127.0.0.1:{port}")
        try:
            if wait:
                wait_until_ready(server)
            yield server
        finally:
            server.process.send_signal(signal.SIGINT)
            try:
                server.process.wait(STOP_TIMEOUT_S)
            finally:
                server.process.kill()


def start(config: Path, address: str) -> Server:
    """Run a config; what the server writes lies beside it."""
    folder = config.parent
    # A cluster of its own, whatever else runs here, whose log holds every line at once.
    environment = [
        "RAY_ADDRESS=local",
        "RAY_AUTH_MODE=disabled",
        "RAY_DEDUP_LOGS=0",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S=60",  # not its 5: busy cores take longer
        f"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH={HOOK}",
        f"RAY_TMPDIR={folder}",
    ]
    serve = Path(sys.executable).with_name("serve")
    with open(folder / "log", "wb") as output:
        process = subprocess.Popen(
            # A shell's background job ignores the signal that ends it, and so would its children.
            ["env", "--default-signal=INT", *environment, serve, "run", config],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Server(address, process, folder)


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
