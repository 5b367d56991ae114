import http.server
import json
import os
import threading
import time

import psutil
import pytest

from benchmarks.local_server import LocalServer
from benchmarks.server_sample import (
    OTHERS,
    ProcessFigures,
    Sample,
    count_tracebacks,
    ongoing,
    read_metrics,
    role_of,
    sum_of,
    to_row,
)

METRICS = """\
# TYPE ray_object_store_used_memory gauge
ray_object_store_used_memory{Component="raylet",NodeAddress="192.0.2.1"} 4.5e+06
ray_object_store_used_memory{Component="raylet",NodeAddress="192.0.2.2"} 7.0
ray_serve_replica_processing_queries{application="lingbot",deployment="WorldGroup",replica="a"} 3.0
ray_serve_replica_processing_queries{application="lingbot",deployment="WorldGroup",replica="b"} 1.0
ray_serve_replica_processing_queries{application="lingbot",deployment="Transport",replica="c"} 9.0
"""


@pytest.mark.parametrize(
    "command, role",
    [
        ("ray::ServeReplica:lingbot:Transport", "Transport"),
        ("ray::ServeReplica:lingbot:WorldGroup.handle_request_streaming", "WorldGroup"),
        ("ray::WorldRank", "WorldRank"),
        ("ray::WorldRank.step", "WorldRank"),
        ("ray::ProxyActor", "ProxyActor"),
        ("/opt/ray/core/src/ray/raylet/raylet", "raylet"),
        ("ray::DashboardAgent", OTHERS),
        ("/usr/bin/python3", OTHERS),
    ],
)
def test_a_process_has_the_role_of_its_actor(command, role):
    assert role_of([command, "--log_dir=/tmp"]) == role


def test_a_process_that_has_ended_has_no_role():
    assert role_of([]) == OTHERS


def test_metrics_are_summed_over_nodes_and_replicas():
    assert sum_of(METRICS, "ray_object_store_used_memory") == 4_500_007
    assert ongoing(METRICS, "WorldGroup") == 4
    assert ongoing(METRICS, "Transport") == 9
    assert sum_of(METRICS, "ray_object_store") == 0


def test_metrics_of_an_agent_that_listens_late_are_read(tmp_path):
    server = LocalServer("127.0.0.1:1", None, tmp_path)
    server.metrics_targets.parent.mkdir()
    agent = http.server.HTTPServer(("127.0.0.1", 0), Agent, bind_and_activate=False)
    agent.server_bind()

    def answer_late():
        time.sleep(0.6)
        agent.server_activate()
        agent.handle_request()
        agent.server_close()

    thread = threading.Thread(target=answer_late)
    address = f"127.0.0.1:{agent.server_address[1]}"
    thread.start()
    server.metrics_targets.write_text(json.dumps([{"targets": [address]}]))
    assert read_metrics(server) == METRICS
    thread.join()


def test_metrics_that_nobody_serves_are_an_error(tmp_path):
    with pytest.raises(OSError):
        read_metrics(LocalServer("127.0.0.1:1", None, tmp_path), timeout_s=0)


class Agent(http.server.BaseHTTPRequestHandler):
    """Ray's agent of one node."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(METRICS.encode())


def test_figures_of_a_process_add_up():
    figures = ProcessFigures()
    for _ in range(2):
        figures.add(psutil.Process(os.getpid()))
    assert figures.count == 2
    assert 1 < figures.uss_mib <= figures.rss_mib
    assert figures.descriptors >= 6


def test_tracebacks_in_a_log_are_counted(tmp_path):
    block = b"(Transport pid=1) Traceback (most recent call last):\n\xff ValueError\n"
    (tmp_path / "log").write_bytes(block * 3 + b"no Traceback\n")
    assert count_tracebacks(tmp_path / "log") == 3


def test_growth_counts_from_the_early_sample():
    def sample(uss_mib, descriptors):
        figures = ProcessFigures(count=1, uss_mib=uss_mib, rss_mib=200, descriptors=descriptors)
        rest = dict.fromkeys(("object_store_bytes", "sessions", "connections", "tracebacks"), 0)
        return Sample(minute=0, processes={"Transport": figures}, **rest)

    row = to_row(sample(90, 70), sample(104.5, 80), sample(105.2, 71), "Transport")
    assert row["grown_since_early"] == 0.7
    assert row["descriptors"] == "70 -> 71"
