"""A Ray cluster of several nodes on this machine, which Ray's own autoscaler starts and stops.

Each node is a raylet with an object store of its own. The nodes differ in their logical resources,
and share the machine's cores. `ray.cluster_utils.AutoscalingCluster` does the same, but it stops
every Ray cluster of the machine first.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FakeMultiNodeProvider,
)
from ray.util import get_node_ip_address

from benchmarks.dashboard import ask_json
from benchmarks.local_server import ROOT, free_port
from deployments.serve import ENVIRONMENT

HEAD = "ray.head.default"
# Keys of the autoscaler's config that it expects, and that a node on this machine does not need.
UNUSED = (
    *("setup_commands", "head_setup_commands", "worker_setup_commands"),
    *("initialization_commands", "head_start_ray_commands", "worker_start_ray_commands"),
    *("cluster_synced_files", "rsync_exclude", "rsync_filter"),
)
AGENTS = (
    *("dashboard-agent-grpc", "dashboard-agent-listen", "metrics-export"),
    *("ray-client-server", "runtime-env-agent"),
)
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class LocalCluster:
    """A running cluster: its head, and what its dashboard knows."""

    process: subprocess.Popen[bytes]  # `ray start --head --block`; all processes descend from it
    folder: Path
    dashboard: str  # http://host:port

    def ask(self, path: str, *, put: Any = None) -> Any:
        """The JSON answer of the dashboard, to a GET or to a PUT of `put`. Raises OSError."""
        return ask_json(f"{self.dashboard}{path}", put=put)

    def nodes(self) -> dict[str, dict[str, float]]:
        """The resources of each node that is alive, by the node's id."""
        nodes = self.ask("/api/v0/nodes?limit=1000&detail=True")["data"]["result"]["result"]
        alive = (node for node in nodes if node["state"] == "ALIVE")
        return {node["node_id"]: node["resources_total"] for node in alive}

    def nodes_of(self, name: str) -> list[str]:
        """The node's id of each living actor whose class has a name that ends so."""
        actors = self.ask("/api/v0/actors?limit=1000&detail=True")["data"]["result"]["result"]
        alive = (actor for actor in actors if actor["state"] == "ALIVE")
        return [actor["node_id"] for actor in alive if actor["class_name"].endswith(name)]

    def kill_node(self, node_id: str) -> None:
        """SIGKILL to all processes of a node at once, as when its machine is lost."""
        word = f"--node_id={node_id}"
        for process in _processes(self):
            with suppress(psutil.NoSuchProcess):
                if word in process.cmdline():
                    for each in (*process.children(recursive=True), process):
                        each.kill()


@contextmanager
def local_cluster(
    node_types: dict[str, dict[str, Any]], *, idle_timeout_s: float = 5.0
) -> Iterator[LocalCluster]:
    """A cluster whose head has no CPUs. `node_types` are the autoscaler's own, by name.

    A node that nothing has used for `idle_timeout_s` is stopped. Raises RuntimeError with the log
    if the cluster does not start.
    """
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as name:
        cluster = _start(Path(name), node_types, idle_timeout_s=idle_timeout_s)
        try:
            _wait_until_up(cluster)
            yield cluster
        finally:
            _stop(cluster)


def _autoscaler_config(
    node_types: dict[str, dict[str, Any]], *, port: int, idle_timeout_s: float
) -> dict[str, Any]:
    return {
        "cluster_name": "local",
        "max_workers": 8,
        "idle_timeout_minutes": idle_timeout_s / 60,
        "provider": {
            "type": "external",  # Ray's wheel lacks the defaults of `fake_multinode`
            "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
            "disable_node_updaters": True,  # there is nothing to install
            "disable_launch_config_check": True,
            "gcs_address": f"{get_node_ip_address()}:{port}",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
        },
        "available_node_types": {
            HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            **node_types,
        },
        "head_node_type": HEAD,
        "upscaling_speed": 100,
        "auth": {},
        **{key: {} for key in ("docker", "file_mounts")},
        **{key: [] for key in UNUSED},
    }


def _start(
    folder: Path, node_types: dict[str, dict[str, Any]], *, idle_timeout_s: float
) -> LocalCluster:
    port, dashboard_port = free_port(), free_port()
    config = _autoscaler_config(node_types, port=port, idle_timeout_s=idle_timeout_s)
    path = folder / "autoscaler.json"
    path.write_text(json.dumps(config))
    environment = ENVIRONMENT | {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_FAKE_CLUSTER": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_enable_autoscaler_v2": "1",
        "PYTHONPATH": str(ROOT),
    }
    options = {
        "autoscaling-config": path,
        "dashboard-port": dashboard_port,
        "num-cpus": 0,
        "object-store-memory": 200 * 2**20,
        "port": port,
        # Ray waits 15 s at most for the ports that its agents choose; these are known at once.
        **{f"{name}-port": free_port() for name in AGENTS},
        "temp-dir": folder / "ray",
    }
    with open(folder / "log", "wb") as output:
        process = subprocess.Popen(
            [
                "env",
                *(f"{variable}={value}" for variable, value in environment.items()),
                str(Path(sys.executable).with_name("ray")),
                *("start", "--head", "--block", "--disable-usage-stats"),
                *(f"--{option}={value}" for option, value in options.items()),
            ],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return LocalCluster(process, folder, f"http://127.0.0.1:{dashboard_port}")


def _wait_until_up(cluster: LocalCluster) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and cluster.process.poll() is None:
        with suppress(OSError):
            cluster.ask("/api/serve/applications/")
            return
        time.sleep(0.2)
    log = (cluster.folder / "log").read_text()[-5000:]
    raise RuntimeError(f"the cluster did not start:\n{log}")


def _stop(cluster: LocalCluster) -> None:
    """End the head, and the nodes and workers that outlive it."""
    processes = _processes(cluster)
    cluster.process.terminate()
    with suppress(subprocess.TimeoutExpired):
        cluster.process.wait(STOP_TIMEOUT_S)
    cluster.process.kill()
    cluster.process.wait()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=STOP_TIMEOUT_S)


def _processes(cluster: LocalCluster) -> list[psutil.Process]:
    """Descendants of the head's command, and others that name the cluster's folder.

    A head that fails to start leaves processes that descend from it no more.
    """
    found: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        found += psutil.Process(cluster.process.pid).children(recursive=True)
    folder = f"{cluster.folder}/"
    for process in psutil.process_iter(["cmdline"]):
        if any(folder in word for word in process.info["cmdline"] or ()):
            found.append(process)
    return found
