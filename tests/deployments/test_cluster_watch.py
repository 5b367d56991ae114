"""The reasons for the end of a cluster's process, from its status and its logs."""

import os
import subprocess
import sys
import threading

import pytest

from deployments import cluster_watch
from deployments.cluster_watch import MAX_CHARS, Watched, last_errors, loss_of, watch_cluster

FATAL = (
    "[2026-11-28 22:40:19,235 C 9919 9919] (raylet) node_manager.cc:3576:  An unexpected system "
    "state has occurred. You have likely discovered a bug in Ray. Please report this issue at "
    "https://github.com/ray-project/ray/issues and we'll work with you to fix it. Check failed: "
    "has_value() Timed out waiting for file /tmp/ray/metrics_agent_port_5414"
)
TEXT = "Check failed: has_value() Timed out waiting for file /tmp/ray/metrics_agent_port_5414"
RAYLET = f"""\
[2026-11-28 22:40:04,162 I 9919 9972] (raylet) agent_manager.cc:81: Monitor agent process
{FATAL}
*** StackTrace Information ***
/ray/raylet(+0xff770a) [0x55a0acd6870a] ray::operator<<()
"""
AGENT = """\
2026-11-28 12:52:13,222\tINFO agent.py:177 -- Dashboard agent grpc address: 192.0.2.2:37545
2026-11-28 12:52:17,168\tERROR agent.py:250 -- first
Traceback (most recent call last):
2026-11-28 12:52:17,169\tERROR agent.py:250 -- second
2026-11-28 12:52:17,170\tERROR agent.py:250 -- third
2026-11-28 12:52:17,171\tCRITICAL agent.py:250 -- fourth
"""


def ended(code):
    """A child that has ended by this Python code, and that nobody has waited for."""
    process = subprocess.Popen([sys.executable, "-c", code])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process


@pytest.fixture
def logs(tmp_path):
    (tmp_path / "raylet.out").write_text(RAYLET)
    (tmp_path / "raylet.err").write_text(FATAL)
    (tmp_path / "dashboard_agent.log").write_text(AGENT)
    return tmp_path


def test_the_last_line_has_the_status_and_the_last_error_of_the_processes_own_log(logs):
    process = ended("import os; os._exit(7)")
    *errors, reason = loss_of("raylet", Watched(process.pid, logs)).splitlines()
    process.wait()
    assert reason == f"the cluster is gone: its raylet has ended, status 7: {TEXT}"
    assert errors == [
        "dashboard_agent.log: agent.py:250 -- second",
        "dashboard_agent.log: agent.py:250 -- third",
        "dashboard_agent.log: agent.py:250 -- fourth",
        f"raylet.err: {TEXT}",
        f"raylet.out: {TEXT}",
    ]


def test_a_process_that_others_killed_has_no_reason_in_its_log(logs):
    process = ended("import os; os.kill(os.getpid(), 9)")
    reason = loss_of("raylet", Watched(process.pid, logs)).splitlines()[-1]
    process.wait()
    assert reason == "the cluster is gone: its raylet has ended, killed by SIGKILL"


def test_a_process_without_logs_that_somebody_has_waited_for_is_told_as_such(tmp_path):
    process = ended("")
    process.wait()
    for folder in (None, tmp_path / "none"):
        reason = loss_of("gcs_server", Watched(process.pid, folder))
        assert reason == "the cluster is gone: its gcs_server has ended, status unknown"


def test_a_long_error_is_cut_and_an_old_one_is_left_out(tmp_path):
    line = "[2026-11-28 22:40:19,235 E 1 1] (gcs_server) gcs.cc:1: "
    filler = "x" * cluster_watch.TAIL_BYTES
    (tmp_path / "gcs_server.out").write_text(f"{line}old\n{filler}\n{line}{'y' * 1000}\n")
    (error,) = last_errors("gcs_server", tmp_path)
    assert error == f"gcs_server.out: {'y' * (MAX_CHARS - 1)}…"


def test_a_process_that_has_run_and_is_gone_is_told_once_and_what_is_left_is_killed(monkeypatch):
    class Fake:
        def children(self, recursive=False):
            return ["a process"] if recursive else []

    running = [{}, {"raylet": Watched(1, None)}, {"raylet": Watched(1, None)}, {}]
    told, killed = [], []
    monkeypatch.setattr(cluster_watch.psutil, "Process", Fake)
    monkeypatch.setattr(cluster_watch, "running_children", lambda: running.pop(0))
    monkeypatch.setattr(cluster_watch, "kill", killed.append)
    watch_cluster(threading.Event(), told.append, period_s=0.001)
    assert told == ["the cluster is gone: its raylet has ended, status unknown"]
    assert killed == [{"a process"}]


def test_a_watch_that_is_over_tells_nothing():
    over = threading.Event()
    over.set()
    watch_cluster(over, pytest.fail, period_s=0.001)


def test_the_folder_of_logs_is_in_the_command_line():
    command = ["/ray/gcs_server", "--gcs_server_port=0", "--log_dir=/tmp/ray/logs"]
    assert str(cluster_watch.logs_folder(command)) == "/tmp/ray/logs"
    assert cluster_watch.logs_folder(command[:2]) is None
