"""A local server for tests and benchmarks: `deployments.serve` with the shipped config."""

import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil

from benchmarks.http_answer import answer_to

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class LocalServer:
    """A running server and the Ray cluster that it started."""

    address: str  # host:port
    process: subprocess.Popen[bytes]  # the cluster's processes descend from it
    folder: Path  # holds every file that the server writes

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def metrics_targets(self) -> Path:
        """The file that Ray writes for Prometheus's service discovery."""
        return self.folder / "ray/prom_metrics_service_discovery.json"

    @property
    def http(self) -> str:
        return f"http://{self.address}"

    @property
    def ws(self) -> str:
        return f"ws://{self.address}/v1/realtime_video/generate"

    def processes(self) -> list[psutil.Process]:
        """The running processes of this cluster."""
        try:
            processes: list[psutil.Process] = psutil.Process(self.process.pid).children(True)
        except psutil.NoSuchProcess:
            processes = []
        return processes

    def descendants(self, name: str) -> list[int]:
        """Ids of this cluster's processes whose command line contains `name`."""
        return [process.pid for process in self.processes() if name in command_line(process)]


def command_line(process: psutil.Process) -> str:
    """The arguments of a process, separated by spaces; empty once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@contextmanager
def local_server(
    args: dict[str, Any] | None = None,
    *,
    num_ranks: int = 1,
    change: Callable[[dict[str, Any]], object] | None = None,
    num_transports: int = 1,
    token: str | None = None,
    timeout_s: float = 240.0,
) -> Iterator[LocalServer]:
    """Start a server on a free port of loopback, wait until a world can be opened, stop it.

    It runs the shipped config. `args` replaces keys of the config's `args`. The group has
    `num_ranks` ranks, with `device: cuda` a GPU for each. `token` is one that `args.access` lets
    in. `change` may edit the application after that. Raises RuntimeError with the end of the log
    if the server does not become ready within `timeout_s`.
    """
    # A late process of the cluster may still write a file while the folder is removed. The folder
    # is in /tmp, as Ray's own would be: paths of sockets must be short.
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        port = free_port()
        path = Path(folder) / "serve_config.yaml"
        content = edit_config(
            args or {}, num_ranks=num_ranks, num_transports=num_transports, port=port, change=change
        )
        path.write_bytes(content)
        server = start_server(path, f"127.0.0.1:{port}")
        try:
            wait_until_ready(server, timeout_s=timeout_s, token=token)
            yield server
        finally:
            stop_server(server)


@contextmanager
def server_at(url: str | None) -> Iterator[str]:
    """The address of the running server at `url`, or of a local one that is started without it."""
    if url is not None:
        yield url
        return
    with local_server() as server:
        yield server.http


def edit_config(
    args: dict[str, Any],
    *,
    num_ranks: int,
    port: int,
    num_transports: int = 1,
    change: Callable[[dict[str, Any]], object] | None = None,
) -> bytes:
    """The shipped config as YAML, with these `args`, this port and a group of so many ranks.

    `change` may edit the application after that.
    """
    config = msgspec.yaml.decode((ROOT / "serve_config.yaml").read_bytes())
    config["http_options"]["port"] = port
    (application,) = config["applications"]
    application["args"] |= args
    (group,) = (d for d in application["deployments"] if d["name"] == "WorldGroup")
    # All ranks share the resources of the shipped bundle, because a machine may have fewer cores.
    (bundle,) = group["placement_group_bundles"]
    share = {resource: amount / num_ranks for resource, amount in bundle.items()}
    if args.get("device") == "cuda":
        share["GPU"] = 1
    group["placement_group_bundles"] = [share] * num_ranks
    for deployment in application["deployments"]:
        if deployment["name"] == "Transport" and num_transports > 1:
            deployment.pop("autoscaling_config")  # Serve takes one of the two
            deployment["num_replicas"] = num_transports
        deployment["graceful_shutdown_wait_loop_s"] = 0.1  # the default of 2 delays every stop
    if change is not None:
        change(application)
    return msgspec.yaml.encode(config)


def start_server(config: Path, address: str) -> LocalServer:
    """Run a config. The server writes its files into the config's folder."""
    folder = config.parent
    environment = [
        "RAY_DEDUP_LOGS=0",  # logs every line at once
        f"RAY_TMPDIR={folder}",
        # Ray's own ports are fixed: two clusters of one machine would name the same exporters, and
        # those end with the cluster that came first.
        f"AUTOSCALER_METRIC_PORT={free_port()}",
        f"DASHBOARD_METRIC_PORT={free_port()}",
    ]
    # A test run or a benchmark that is killed takes its server with it.
    with_parent = ["setpriv", "--pdeathsig", "INT"]
    command = [*with_parent, sys.executable, "-m", "deployments.serve", str(config)]
    with open(folder / "log", "wb") as output:
        process = subprocess.Popen(
            # A shell's background job ignores SIGINT, and its children inherit that.
            ["env", "--default-signal=INT", *environment, *command],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return LocalServer(address, process, folder)


def stop_server(server: LocalServer, *, timeout_s: float = 180.0) -> None:
    """Interrupt the server; kill it if it still runs after `timeout_s`."""
    server.process.send_signal(signal.SIGINT)
    try:
        server.process.wait(timeout_s)
    finally:
        server.process.kill()


def wait_until_ready(
    server: LocalServer, *, timeout_s: float = 240.0, token: str | None = None
) -> None:
    """Returns when a world can be opened. Raises RuntimeError with the end of the log."""
    deadline = time.monotonic() + timeout_s
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{server.http}/health", headers=headers)
    while time.monotonic() < deadline and server.process.poll() is None:
        with suppress(OSError):
            if answer_to(request, timeout_s=5).status == 200:
                return
        time.sleep(0.5)  # each answer asks Serve for its status, which takes CPU from the start
    log = server.log.read_text()[-5000:]
    raise RuntimeError(f"the server did not become ready:\n{log}")


def free_port() -> int:
    """A TCP port of loopback that nothing listens on.

    It is below the range from which Linux takes ports for connections and for port 0: a server
    that starts meanwhile would take one of those before this one is used.
    """
    while True:
        port = random.randrange(20_000, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def one_group(application: dict[str, Any]) -> None:
    """Pin an application to one replica group: a `change` for `local_server`."""
    (group,) = (d for d in application["deployments"] if d["name"] == "WorldGroup")
    group.pop("autoscaling_config", None)
    group["num_replicas"] = 1


def two_groups(application: dict[str, Any]) -> None:
    """Two replica groups of one rank, which both fit on two cores: a `change`."""
    (group,) = (d for d in application["deployments"] if d["name"] == "WorldGroup")
    group.pop("autoscaling_config", None)
    group |= {"num_replicas": 2, "placement_group_bundles": [{"CPU": 0.5}]}
