"""The autoscaler's config of a local cluster, read by Ray itself; and what a stop ends."""

import subprocess
import sys

import psutil
import pytest
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from benchmarks.local_cluster import LocalCluster, _autoscaler_config, _stop, _wait_until_up

NODE_TYPES = {
    "worlds": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "max_workers": 2},
}


def test_ray_accepts_the_config():
    config = AutoscalingConfig(_autoscaler_config(NODE_TYPES, port=1, idle_timeout_s=30))
    assert config.get_idle_timeout_s() == 30
    worlds = config.get_node_type_configs()["worlds"]
    assert (worlds.min_worker_nodes, worlds.max_worker_nodes) == (0, 2)
    assert worlds.resources == {"CPU": 1, "GPU": 1}


@pytest.fixture
def ended(tmp_path):
    """A cluster whose head has failed, and left a process that names the cluster's folder."""
    wait = "import sys, time; time.sleep(60)"
    orphan = subprocess.Popen([sys.executable, "-c", wait, f"{tmp_path}/ray/session"])
    head = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    head.wait()
    (tmp_path / "log").write_text("the raylet has died")
    yield LocalCluster(head, tmp_path, "http://127.0.0.1:1"), orphan
    orphan.kill()
    orphan.wait()


def test_a_head_that_ends_is_an_error_with_its_log(ended):
    with pytest.raises(RuntimeError, match="the raylet has died"):
        _wait_until_up(ended[0])


def test_a_stop_ends_what_a_failed_head_has_left(ended):
    cluster, orphan = ended
    _stop(cluster)
    assert not psutil.pid_exists(orphan.pid)
